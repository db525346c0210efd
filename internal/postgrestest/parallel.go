package postgrestest

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
)

// Run runs a package's tests, perProcessor of the parallel ones at once for each processor: tests against a server wait more than they
// work. It returns the code to exit with, as TestMain has to.
func Run(m *testing.M, perProcessor int) int {
	flag.Parse()
	// Not by flag.Set: Ginkgo refuses to run its specs where somebody has set this flag.
	if err := flag.Lookup("test.parallel").Value.Set(fmt.Sprint(perProcessor * runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	return m.Run()
}
