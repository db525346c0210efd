package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/definition/declare"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
	"github.com/sluice-project/sluice/internal/postgrestest"
	"github.com/sluice-project/sluice/progress"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// start runs the example against a new database and returns its service.
func start(t *testing.T) *httptest.Server {
	t.Helper()
	text, err := os.ReadFile("processor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document, err := definition.ParseYAML(text)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	target, err := access.FromURL(postgrestest.New(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := postgres.Connect(ctx, postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Migrate(ctx, conn, postgres.DefaultSchema); err != nil {
		t.Fatal(err)
	}
	conn.Close(ctx)
	pool, err := postgres.Open(postgres.Options{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)

	def := document.Spec.Definition()
	const name = "test/default/payments"
	source := eventlog.NewSource(pool, postgres.DefaultSchema)
	declared := declare.Processor{Owner: tokenstore.Owner{Processor: name}, Spec: document.Spec, Definition: def.ID(), Live: document.Spec.Live(1), Replicas: 1}
	err = declare.Write(ctx, postgres.NewStore(pool, postgres.DefaultSchema), postgres.NewDirectory(pool, postgres.DefaultSchema), declared,
		func(_ string, at progress.StartPosition) (progress.Progress, error) { return source.Start(ctx, at) })
	if err != nil {
		t.Fatal(err)
	}
	w := worker.New(worker.Options{Processor: name, Pod: "test", Definition: def, DefinitionID: def.ID(), Backend: backend.Postgres{Target: target, Schema: postgres.DefaultSchema},
		Handlers: map[string]handler.Handler{"validation": validation(postgres.DefaultSchema, "")}})
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	server := httptest.NewServer(newService(pool, postgres.DefaultSchema, "").routes())
	t.Cleanup(func() {
		server.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return server
}

func post(t *testing.T, server *httptest.Server, body string) *http.Response {
	t.Helper()
	response, err := http.Post(server.URL+"/payments", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func TestAPaymentIsValidatedOrRejected(t *testing.T) {
	server := start(t)
	for _, body := range []string{`{"amount":"10.00","currency":"USD"}`, `{"amount":"-1","currency":"USD"}`, `{"amount":"0.00","currency":"USD"}`} {
		if r := post(t, server, body); r.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", body, r.Status)
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		var view []View
		response, err := http.Get(server.URL + "/payments")
		if err != nil {
			t.Fatal(err)
		}
		err = json.NewDecoder(response.Body).Decode(&view)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		decided := 0
		for _, p := range view {
			if p.Validated == nil {
				continue
			}
			decided++
			if *p.Validated != (p.Amount == "10.00") || *p.Validated == (p.Reason != nil) {
				t.Errorf("%+v", p)
			}
		}
		if decided == 3 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s: %+v", view)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestABadPaymentIsRefusedByNamingTheField(t *testing.T) {
	s := httptest.NewServer(newService(nil, postgres.DefaultSchema, "").routes())
	defer s.Close()
	for body, field := range map[string]string{
		`{"amount":"ten","currency":"USD"}`:   "amount",
		`{"amount":10.00,"currency":"USD"}`:   "amount",
		`{"amount":"10.00","currency":"usd"}`: "currency",
		`{"amount":"10.00"}`:                  "currency",
		`{"sum":"10.00"}`:                     "sum",
	} {
		response := post(t, s, body)
		text := make([]byte, 500)
		n, _ := response.Body.Read(text)
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text[:n]), field) {
			t.Errorf("%s: %s %s", body, response.Status, text[:n])
		}
	}
}

func TestAVerdictSaysWhy(t *testing.T) {
	for amount, reason := range map[string]string{
		`"10.00"`:                "",
		`"0.0001"`:               "",
		`"123456789012345.6789"`: "",
		`"0.00"`:                 "the amount 0.00 is not positive",
		`"-0.01"`:                "the amount -0.01 is not positive",
		`"ten"`:                  "the amount ten is not a number",
		`"1/3"`:                  "the amount 1/3 is not a number",
		`"1e3"`:                  "the amount 1e3 is not a number",
		`""`:                     "the amount  is not a number",
		`10.00`:                  "the payment cannot be read: ",
	} {
		got := verdict([]byte(`{"amount": ` + amount + `, "currency": "USD"}`))
		want := "PaymentValidated"
		if reason != "" {
			want = "PaymentRejected"
		}
		why, _ := got.Data.(map[string]string)
		if got.Type != want || !strings.HasPrefix(why["reason"], reason) || (reason == "") != (why["reason"] == "") {
			t.Errorf("%s: %s, %q, want %s, %q", amount, got.Type, why["reason"], want, reason)
		}
	}
}

func TestPaymentsUseTheSchemaOfTheProcessor(t *testing.T) {
	for text, want := range map[string]string{
		"":                              postgres.DefaultSchema,
		`{"postgres": {}}`:              postgres.DefaultSchema,
		`{"postgres": {"schema": "x"}}`: "x",
	} {
		t.Setenv("SLUICE_STORE", text)
		store, err := readStore()
		if err != nil {
			t.Fatal(err)
		}
		if got := schemaOf(store); got != want {
			t.Errorf("with SLUICE_STORE=%s payments are appended to the schema %s, want %s", text, got, want)
		}
	}
}
