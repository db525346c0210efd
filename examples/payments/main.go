// Payments is the worked example: a service that accepts payments as events, a handler in Go that validates them, and a
// view in SQL, declared in processor.yaml. Each pod is all three: the service's HTTP server and a worker.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/sluice-project/sluice"
	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func main() {
	store, err := readStore()
	if err != nil {
		log.Fatalf("payments: %v", err)
	}
	schema := schemaOf(store)
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		pool, err := openPool(store)
		if err != nil {
			log.Fatalf("payments: %v", err)
		}
		go serve(newService(pool, schema, os.Getenv("CRASH_CURRENCY")))
	}
	sluice.Main(sluice.Handlers{"validation": validation(schema, os.Getenv("NO_RATE_FOR"))})
}

// readStore reads the store of the worker in this process, which the operator sets by SLUICE_STORE.
func readStore() (store definition.Store, err error) {
	text := os.Getenv("SLUICE_STORE")
	if text == "" {
		return store, nil
	}
	if err := json.Unmarshal([]byte(text), &store); err != nil {
		return store, fmt.Errorf("reading SLUICE_STORE, which the operator sets: %w", err)
	}
	return store, nil
}

// schemaOf returns the schema that has the event table.
func schemaOf(store definition.Store) string {
	if store.Postgres == nil || store.Postgres.Schema == "" {
		return postgres.DefaultSchema
	}
	return store.Postgres.Schema
}

// openPool connects to the store, by the Secrets that the operator has mounted.
func openPool(store definition.Store) (*pgxpool.Pool, error) {
	secrets := os.Getenv("SLUICE_SECRETS_DIR")
	if secrets == "" {
		secrets = "/etc/sluice/secrets"
	}
	target, err := access.FromFiles(store, secrets)
	if err != nil {
		return nil, err
	}
	return postgres.Open(postgres.Options{Target: target, Application: "payments"})
}

func serve(s *service) {
	server := &http.Server{Addr: ":8080", Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}
	log.Fatalf("payments: %v", server.ListenAndServe())
}
