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
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		pool, err := openPool()
		if err != nil {
			log.Fatalf("payments: %v", err)
		}
		go serve(newService(pool, os.Getenv("CRASH_CURRENCY")))
	}
	sluice.Main(sluice.Handlers{"validation": validation(os.Getenv("NO_RATE_FOR"))})
}

// openPool connects to the store of the worker in this process: the operator has told it by SLUICE_STORE, and mounted the
// Secrets.
func openPool() (*pgxpool.Pool, error) {
	var store definition.Store
	if err := json.Unmarshal([]byte(os.Getenv("SLUICE_STORE")), &store); err != nil {
		return nil, fmt.Errorf("reading SLUICE_STORE, which the operator sets: %w", err)
	}
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

// newLog is where payments are appended.
func newLog(db eventlog.DB) *eventlog.Log { return eventlog.NewLog(db, postgres.DefaultSchema) }
