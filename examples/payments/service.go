package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"regexp"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
)

// Payment is what is asked for. Amounts are decimals, written as strings: JSON numbers would be read as binary fractions.
type Payment struct {
	Amount   string `json:"amount"`
	Currency string `json:"currency"`
}

var (
	decimal  = regexp.MustCompile(`^-?[0-9]{1,15}(\.[0-9]{1,4})?$`)
	currency = regexp.MustCompile(`^[A-Z]{3}$`)
)

// check says what is wrong with a payment. Whether it is valid is not decided here, but by the handler.
func (p Payment) check() error {
	if !decimal.MatchString(p.Amount) {
		return fmt.Errorf(`amount: %q is no decimal; write it as a string such as "10.00"`, p.Amount)
	}
	if !currency.MatchString(p.Currency) {
		return fmt.Errorf(`currency: %q is no code of three capital letters, such as "USD"`, p.Currency)
	}
	return nil
}

// service accepts payments and lists the view.
type service struct {
	pool *pgxpool.Pool
	log  *eventlog.Log
	// crashOn is a currency; the process kills itself right after a payment in it has been accepted.
	crashOn string
}

func newService(pool *pgxpool.Pool, schema, crashOn string) *service {
	return &service{pool: pool, log: eventlog.NewLog(pool, schema), crashOn: crashOn}
}

func (s *service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /payments", s.create)
	mux.HandleFunc("GET /payments", s.list)
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "ok") })
	return mux
}

func (s *service) create(out http.ResponseWriter, in *http.Request) {
	var p Payment
	decoder := json.NewDecoder(http.MaxBytesReader(out, in.Body, 1<<16))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&p)
	if err == nil {
		err = p.check()
	}
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	id := newID()
	if _, err := s.log.Append(in.Context(), id, eventlog.NoStream, eventlog.NewEvent{Type: "PaymentCreated", Data: p}); err != nil {
		http.Error(out, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if p.Currency == s.crashOn {
		// The event has committed; nothing else of this process will.
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			log.Printf("could not crash: %v", err)
		}
	}
	answer(out, http.StatusCreated, map[string]string{"id": id})
}

// View is a row of the view. Validated is null until the payment has been validated or rejected.
type View struct {
	ID        string    `json:"id"`
	Amount    string    `json:"amount"`
	Currency  string    `json:"currency"`
	Validated *bool     `json:"validated"`
	Reason    *string   `json:"reason,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

func (s *service) list(out http.ResponseWriter, in *http.Request) {
	rows, err := s.pool.Query(in.Context(), `SELECT id, amount::text, currency, validated, reason, created_at FROM payments ORDER BY created_at DESC, id LIMIT 1000`)
	var all []View
	if err == nil {
		all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[View])
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // the view's setup has not run yet
		all, err = []View{}, nil
	}
	if err != nil {
		http.Error(out, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answer(out, http.StatusOK, all)
}

func answer(out http.ResponseWriter, status int, body any) {
	out.Header().Set("Content-Type", "application/json")
	out.WriteHeader(status)
	if err := json.NewEncoder(out).Encode(body); err != nil {
		log.Printf("answering: %v", err)
	}
}

func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return "payment-" + hex.EncodeToString(b[:])
}
