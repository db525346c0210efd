package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/eventsource/postgres"
)

// clock notes when statements are sent, each of which takes a millisecond.
type clock struct {
	postgres.DB
	began time.Time
	sent  []string
}

func (c *clock) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	c.sent = append(c.sent, time.Since(c.began).String())
	time.Sleep(time.Millisecond)
	return pgconn.CommandTag{}, nil
}

// Time is the subject here, so it is the bubble's.
func TestWhenNotificationsAreSent(t *testing.T) {
	for name, test := range map[string]struct {
		after []time.Duration // each append after the one before
		times int             // all of them
		want  []string
	}{
		"one":                        {[]time.Duration{0}, 1, []string{"0s"}},
		"two at once":                {[]time.Duration{0, 0}, 1, []string{"0s", "50ms"}},
		"seldom":                     {[]time.Duration{6 * time.Millisecond}, 4, []string{"6ms", "12ms", "18ms", "24ms"}},
		"close together":             {[]time.Duration{time.Millisecond}, 103, []string{"1ms", "51ms", "101ms", "151ms"}},
		"close together, a pause":    {[]time.Duration{0, time.Millisecond, 4 * time.Millisecond, 5 * time.Millisecond}, 1, []string{"0s", "10ms"}},
		"a pause after few and none": {[]time.Duration{0, time.Millisecond, 70 * time.Millisecond}, 1, []string{"0s", "50ms", "71ms"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := &clock{began: time.Now()}
			log := postgres.NewLog(c, schema)
			for range test.times {
				for _, d := range test.after {
					time.Sleep(d)
					log.Notify()
					synctest.Wait()
				}
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if fmt.Sprint(c.sent) != fmt.Sprint(test.want) {
				t.Errorf("%s: sent at %s, want %s", name, c.sent, test.want)
			}
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCloseSendsWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{began: time.Now()}
		log := postgres.NewLog(c, schema)
		for range 2 {
			log.Notify()
			synctest.Wait()
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
		if fmt.Sprint(c.sent) != "[0s 0s]" {
			t.Errorf("sent at %s", c.sent)
		}
	})
}
