package memory_test

import (
	"testing"

	"github.com/sluice-project/sluice/tokenstore/tokenstoretest"
)

func TestTheStoreKeepsItsPromises(t *testing.T) {
	tokenstoretest.Run(t, func(*testing.T) tokenstoretest.Harness { return tokenstoretest.Memory() })
}
