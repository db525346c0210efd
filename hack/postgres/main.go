// Command postgres fetches the newest PostgreSQL that Sluice is tested with, unless it is in the cache, and prints the folder of
// its programs.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/sluice-project/sluice/internal/localpostgres"
)

func main() {
	bin, err := fetch(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		os.Exit(1)
	}
	fmt.Println(bin)
}

func fetch(ctx context.Context) (string, error) {
	cache, err := localpostgres.CacheDir()
	if err != nil {
		return "", err
	}
	return localpostgres.Fetch(ctx, cache, func(what string) { fmt.Fprintln(os.Stderr, what) })
}
