package memory_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/sluice-project/sluice/eventsource"
	"github.com/sluice-project/sluice/eventsource/memory"
	"github.com/sluice-project/sluice/eventsource/sourcetest"
)

func TestTheSourceConforms(t *testing.T) {
	sourcetest.Run(t, func(*testing.T) sourcetest.Log {
		log := memory.New(time.Now)
		return sourcetest.Log{
			Source: func(*testing.T) eventsource.Source { return log.Source() },
			Append: func(_ *testing.T, stream string, events ...sourcetest.Event) {
				for _, e := range events {
					log.Append(stream, e.Type, json.RawMessage(e.Data))
				}
			},
		}
	})
}
