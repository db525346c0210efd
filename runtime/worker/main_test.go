package worker_test

import (
	"os"
	"testing"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

// TestMain has more tests run at once than there are processors: workers wait more than they work.
func TestMain(m *testing.M) { os.Exit(postgrestest.Run(m, 3)) }
