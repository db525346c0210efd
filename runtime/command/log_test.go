package command

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestDurationsAreLoggedAsPeopleReadThem(t *testing.T) {
	var out bytes.Buffer
	newLog(&out).With("lease", 5*time.Second).Info("drained", "took", 61250*time.Millisecond+3)
	for _, want := range []string{`"took":"1m1.25s"`, `"lease":"5s"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
}
