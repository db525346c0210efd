package worker_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// TestMain has more tests run at once than there are processors: workers wait more than they work.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", fmt.Sprint(3*runtime.GOMAXPROCS(0))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}
