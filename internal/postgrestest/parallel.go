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
	if err := flag.Set("test.parallel", fmt.Sprint(perProcessor*runtime.GOMAXPROCS(0))); err != nil {
		panic(err) // package testing has no such flag any more
	}
	return m.Run()
}
