package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/sluice-project/sluice/test/bench/ledger"
)

// watermillAs is watermill-sql with some settings. Its subscriber reads a page of messages in a transaction, gives them to the handler one
// at a time, and notes the offset in the same transaction, so that a handler that writes by this transaction has its effect exactly
// once. A consumer group reads a topic one page at a time, whatever the number of subscribers; more at once takes more topics. Events are
// taken directly from the subscriber: its router would only add to the cost.
type watermillAs struct {
	page   int // 0 for the default, 100
	topics int // streams are spread over them by their hash
}

var (
	watermillDefaults = watermillAs{topics: 1}
	watermillPages    = watermillAs{topics: 1, page: 10_000}
	watermillTopics   = watermillAs{topics: 4, page: 10_000}
)

func (w watermillAs) topic(i int) string { return fmt.Sprintf("ledger_%d_of_%d", i, w.topics) }

func (w watermillAs) schema() sql.DefaultPostgreSQLSchema {
	return sql.DefaultPostgreSQLSchema{SubscribeBatchSize: w.page}
}

// prepare fills the topics, if that has not been done, in transactions as large as those of the events themselves. Runs have
// consumer groups of their own.
func (w watermillAs) prepare(ctx context.Context, r *run) error {
	for i := range w.topics {
		table := w.schema().MessagesTable(w.topic(i))
		var there bool
		if err := r.DB.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&there); err != nil || there {
			return err
		}
		subscriber, err := w.subscriber(r)
		if err != nil {
			return err
		}
		if err := errors.Join(subscriber.SubscribeInitialize(w.topic(i)), subscriber.Close()); err != nil {
			return err
		}
		for from := int64(0); from < r.Events; from += 10_000 {
			_, err := r.DB.Exec(ctx, `INSERT INTO `+table+` (uuid, payload, metadata, transaction_id)
				SELECT id, data::json, json_build_object('stream', stream_id, 'position', position::text), pg_current_xact_id()
				  FROM sluice.event WHERE position > $1 AND position <= $1 + 10000 AND slice % $2 = $3 ORDER BY position`, from, w.topics, i)
			if err != nil {
				return err
			}
		}
		if _, err := r.DB.Exec(ctx, "VACUUM (ANALYZE) "+table); err != nil {
			return err
		}
	}
	return nil
}

func (w watermillAs) subscriber(r *run) (*sql.Subscriber, error) {
	return sql.NewSubscriber(sql.BeginnerFromPgx(r.DB), sql.SubscriberConfig{
		ConsumerGroup:  r.table,
		SchemaAdapter:  w.schema(),
		OffsetsAdapter: sql.DefaultPostgreSQLOffsetsAdapter{},
	}, watermill.NewSlogLogger(quiet))
}

func (w watermillAs) run(ctx context.Context, r *run) error {
	ctx, stop := context.WithTimeout(ctx, 10*time.Minute)
	defer stop()
	subscriber, err := w.subscriber(r)
	if err != nil {
		return err
	}
	err = r.time(func() error {
		var topics []<-chan *message.Message
		for i := range w.topics {
			messages, err := subscriber.Subscribe(ctx, w.topic(i))
			if err != nil {
				return err
			}
			topics = append(topics, messages)
		}
		handled := &countdown{left: r.handled(), done: make(chan struct{})}
		var handlers sync.WaitGroup
		for _, messages := range topics {
			handlers.Go(func() {
				for m := range messages {
					if err := book(m, fmt.Sprintf(ledger.One, r.table)); err != nil {
						fmt.Fprintln(os.Stderr, "  a message failed:", err)
						m.Nack()
						continue
					}
					m.Ack()
					handled.one()
				}
			})
		}
		select {
		case <-handled.done:
		case <-ctx.Done():
			return errors.New("not all messages were handled in ten minutes")
		}
		err := subscriber.Close() // when the last pages have been committed
		handlers.Wait()
		return err
	})
	return err
}

// book applies a message in its subscriber's transaction.
func book(m *message.Message, statement string) error {
	tx, ok := sql.TxFromContext(m.Context())
	if !ok {
		return errors.New("the message has no transaction")
	}
	amount, err := amount(m.Payload)
	if err != nil {
		return err
	}
	position, err := strconv.ParseInt(m.Metadata.Get("position"), 10, 64)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(m.Context(), statement, m.Metadata.Get("stream"), amount, ledger.Hash(position, amount), position)
	return err
}

// countdown closes done with the last of some events.
type countdown struct {
	mu   sync.Mutex
	left int64
	done chan struct{}
}

func (c *countdown) one() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		close(c.done)
	}
}
