package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Introduce returns what figures depend on: versions, the machine and how busy it is, and the server's settings.
func Introduce(ctx context.Context, db *pgxpool.Pool) (string, error) {
	var server, set string
	err := db.QueryRow(ctx, `SELECT current_setting('server_version'), string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name)
		FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'wal_sync_method', 'shared_buffers', 'max_wal_size',
		  'checkpoint_timeout', 'autovacuum', 'track_commit_timestamp')`).Scan(&server, &set)
	if err != nil {
		return "", fmt.Errorf("asking the server for its settings: %w", err)
	}
	return fmt.Sprintf("%s, %d cores (%s), load %s; %s, pgx %s, Sluice %s\nPostgreSQL %s: %s\n",
		runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), processorModel(), load(), runtime.Version(), ModuleVersion("github.com/jackc/pgx/v5"), revision(), server, set), nil
}

// processorModel is what Linux calls the processor.
func processorModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(data)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// load is the average of runnable processes over one minute, which tells whether others use the machine too.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	average, _, _ := strings.Cut(string(data), " ")
	return average
}

// ModuleVersion is the version of a module that this program is made of.
func ModuleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// revision is the commit that is measured; `go run` does not stamp it into the program.
func revision() string {
	out, err := exec.Command("git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
