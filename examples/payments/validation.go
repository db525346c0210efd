package main

import (
	"context"
	"encoding/json"
	"math/big"

	"github.com/jackc/pgx/v5"

	"github.com/sluice-project/sluice"
	eventlog "github.com/sluice-project/sluice/eventsource/postgres"
)

// validation is the Go handler: it answers each PaymentCreated with PaymentValidated or PaymentRejected, in the
// transaction in which its token moves. So a payment is answered once, whatever happens to pods in between.
func validation() sluice.Handler {
	events := newLog(nil) // appends in the handler's transaction only
	return sluice.Each(func(ctx context.Context, tx pgx.Tx, e sluice.Event) error {
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
