package controllers

import (
	"os"
	"testing"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

// TestMain has more tests run at once than there are processors: what workers and the operator do
// is waited for.
func TestMain(m *testing.M) { os.Exit(postgrestest.Run(m, 16)) }
