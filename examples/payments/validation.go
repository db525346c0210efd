package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"math/big"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
)

// validation is the Go handler: it answers each PaymentCreated with PaymentValidated or PaymentRejected, in the
// transaction in which its token moves. So a payment is answered once, whatever happens to pods in between.
//
// noRateFor is a currency for which a broken version of this program has no rate: it ends its process, as programs do that take
// for granted what is not so.
func validation(schema, noRateFor string) sluice.Handler {
	events := eventlog.NewLog(nil, schema) // appends in the handler's transaction only
	return sluice.Each(func(ctx context.Context, tx pgx.Tx, e sluice.Event) error {
		if noRateFor != "" && bytes.Contains(e.Data, []byte(`"`+noRateFor+`"`)) {
			log.Fatalf("payments: there is no rate for %s", noRateFor)
		}
		_, err := events.AppendTx(ctx, tx, e.StreamID, eventlog.Exactly(e.Version), verdict(e.Data))
		return err
	}, "PaymentCreated")
}

// verdict decides on a payment.
func verdict(data []byte) eventlog.NewEvent {
	var p Payment
	if err := json.Unmarshal(data, &p); err != nil {
		return rejected("the payment cannot be read: " + err.Error())
	}
	amount, isNumber := new(big.Rat).SetString(p.Amount)
	switch {
	case !isNumber || !decimal.MatchString(p.Amount):
		return rejected("the amount " + p.Amount + " is not a number")
	case amount.Sign() <= 0:
		return rejected("the amount " + p.Amount + " is not positive")
	}
	return eventlog.NewEvent{Type: "PaymentValidated"}
}

func rejected(reason string) eventlog.NewEvent {
	return eventlog.NewEvent{Type: "PaymentRejected", Data: map[string]string{"reason": reason}}
}
