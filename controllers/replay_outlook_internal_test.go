package controllers

import (
	"strings"
	"testing"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/tokenstore"
)

func TestMessagesOfAReplayThatHasEnded(t *testing.T) {
	for name, test := range map[string]struct {
		row                tokenstore.Replay
		accepted, complete string
	}{
		"complete":              {tokenstore.Replay{Phase: tokenstore.ReplayComplete, Total: 7}, "the replay has run", "handled again what they had handled"},
		"complete with nothing": {tokenstore.Replay{Phase: tokenstore.ReplayComplete}, "the replay has run", "there was nothing to handle again"},
		"cancelled":             {tokenstore.Replay{Phase: tokenstore.ReplayCancelled}, "cancelled before its reset had committed", "was cancelled"},
		"failed":                {tokenstore.Replay{Phase: tokenstore.ReplayFailed}, "its reset has failed", "has failed"},
		"superseded":            {tokenstore.Replay{Phase: tokenstore.ReplaySuperseded, Message: "its groups were new"}, "has not run", "its groups were new"},
	} {
		o := begunOutlook(&v1alpha1.Replay{}, &test.row)
		if !strings.Contains(o.accepted.Message, test.accepted) || !strings.Contains(o.complete.Message, test.complete) {
			t.Errorf("%s: Accepted: %q, Complete: %q; want %q, %q", name, o.accepted.Message, o.complete.Message, test.accepted, test.complete)
		}
	}
}
