// Command postgres fetches the newest PostgreSQL that Sluice is tested with, unless it is in the cache, and prints the folder of
// its programs; with -installed that of the machine's own PostgreSQL, and fails where there is none.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/sluice-project/sluice/internal/localpostgres"
)

func main() {
	installed := flag.Bool("installed", false, "print the folder of the PostgreSQL that is installed on this machine")
	flag.Parse()
	find := fetch
	if *installed {
		find = localpostgres.Find
	}
	bin, err := find()
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		os.Exit(1)
	}
	fmt.Println(bin)
}

func fetch() (string, error) {
	cache, err := localpostgres.CacheDir()
	if err != nil {
		return "", err
	}
	return localpostgres.Fetch(context.Background(), cache, func(what string) { fmt.Fprintln(os.Stderr, what) })
}
