package postgres_test

import (
	"os"
	"testing"

	"github.com/sluice-project/sluice/internal/postgrestest"
)

// TestMain has more tests run at once than there are processors: somebody holds a transaction open most of the time.
func TestMain(m *testing.M) { os.Exit(postgrestest.Run(m, 2)) }
