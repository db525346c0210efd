package command

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/definition"
	"github.com/sluice-project/sluice/runtime/access"
	"github.com/sluice-project/sluice/runtime/backend"
	"github.com/sluice-project/sluice/runtime/handler"
	"github.com/sluice-project/sluice/runtime/worker"
	"github.com/sluice-project/sluice/tokenstore/postgres"
)

// workerFlags are what the operator gives a worker by environment variables.
type workerFlags struct {
	processor, installation, pod, definitionFile, store, secrets, sourceURL, metrics, probes, memory, catchUp string
}

// Worker is the command that runs in a pod.
func Worker(handlers map[string]handler.Handler) *cobra.Command {
	var f workerFlags
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker (in a pod): claim segments and process their events",
		Long: "Run in a pod: claim segments and process their events, until SIGTERM; then hand the segments over and exit.\n" +
			"The operator sets everything by environment variables; each flag names its own.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWorker(cmd, f, handlers) },
	}
	flag := func(into *string, name, env, otherwise, help string) {
		if value, set := os.LookupEnv(env); set {
			otherwise = value
		}
		cmd.Flags().StringVar(into, name, otherwise, help+" ("+env+")")
	}
	hostname, _ := os.Hostname() // only a default
	flag(&f.processor, "processor", "SLUICE_PROCESSOR", "", "the processor, as cluster/namespace/name")
	flag(&f.installation, "installation", "SLUICE_INSTALLATION", "", "ID of the operator's installation")
	flag(&f.pod, "pod", "SLUICE_POD", hostname, "this process's name in the directory")
	flag(&f.definitionFile, "definition-file", "SLUICE_DEFINITION_FILE", "/etc/sluice/definition/definition.json", "file with the definition of the groups")
	flag(&f.store, "store", "SLUICE_STORE", "", "the store, as the JSON of spec.store")
	flag(&f.secrets, "secrets-dir", "SLUICE_SECRETS_DIR", "/etc/sluice/secrets", "folder with a folder for each Secret that store and source name")
	flag(&f.sourceURL, "source-url", sourceURLVariable, "", "database with the events, as postgres://user:password@host:port/database, instead of what the Secrets of spec.source.postgres say; only used if the definition has source.postgres")
	flag(&f.metrics, "metrics-address", "SLUICE_METRICS_ADDRESS", ":9090", "address for /metrics; empty for none")
	flag(&f.probes, "probe-address", "SLUICE_PROBE_ADDRESS", ":8081", "address for /readyz and /healthz; empty for none")
	flag(&f.memory, "event-memory", "SLUICE_EVENT_MEMORY", "", "MiB that events may take which have been read and not handled yet; by default 64, or an eighth of the memory limit where that is less")
	flag(&f.catchUp, "catch-up-workers", "SLUICE_CATCH_UP_WORKERS", "", "workers that may read a backlog from one store at a time, 4 by default, -1 for any number, and without a rest where live events are slow beside it")
	return cmd
}

// number reads a flag that is a whole number; 0 where it is not set.
func number(flag, text string, least int64) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < least {
		return 0, &usageError{fmt.Errorf("--%s is %q: want a whole number, at least %d", flag, text, least)}
	}
	return n, nil
}

func runWorker(cmd *cobra.Command, f workerFlags, handlers map[string]handler.Handler) error {
	if f.processor == "" {
		return &usageError{fmt.Errorf("no processor given: set --processor or SLUICE_PROCESSOR; pods get it from the operator")}
	}
	memory, err := number("event-memory", f.memory, 1)
	if err != nil {
		return err
	}
	catchUp, err := number("catch-up-workers", f.catchUp, -1)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(f.definitionFile)
	if err != nil {
		return fmt.Errorf("reading the definition: %w", err)
	}
	def, err := definition.ParseDefinition(text)
	if err != nil {
		return err
	}
	var store definition.Store
	if err := json.Unmarshal([]byte(f.store), &store); err != nil {
		return fmt.Errorf("reading the store (--store, SLUICE_STORE): %w", err)
	}
	target, err := access.FromFiles(store, f.secrets)
	if err != nil {
		return err
	}
	log := newLog(cmd.ErrOrStderr())
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w := worker.New(worker.Options{
		Processor: f.processor, Installation: f.installation, Pod: f.pod, Definition: def, DefinitionID: def.ID(), Handlers: handlers,
		Backend: backend.Postgres{Target: target, Source: f.source, Schema: schemaOf(store), Migrate: store.Postgres.Migrations != definition.MigrationsManual},
		Version: Version, Log: log, Registry: registry, Memory: memory << 20, CatchUpWorkers: int(catchUp),
	})
	serve(f.probes, probes(w), log)
	serve(f.metrics, metricsHandler(registry, w), log)
	return w.Run(cmd.Context())
}

// source is the way to the database of a source, which the definition names.
func (f workerFlags) source(source definition.SourcePostgres) (backend.Target, error) {
	if f.sourceURL != "" {
		return sourceTarget(f.sourceURL)
	}
	return access.SourceFromFiles(source, f.secrets), nil
}

func schemaOf(store definition.Store) string {
	if store.Postgres.Schema == "" {
		return postgres.DefaultSchema
	}
	return store.Postgres.Schema
}

func probes(w *worker.Worker) http.Handler {
	mux := http.NewServeMux()
	answer := func(path string, holds func() bool) {
		mux.HandleFunc("GET "+path, func(out http.ResponseWriter, _ *http.Request) {
			if !holds() {
				http.Error(out, "no", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(out, "ok")
		})
	}
	answer("/readyz", w.Ready)
	answer("/healthz", w.Alive)
	return mux
}

// metricsHandler serves the metrics, the segments held, which are too many for labels, and the
// calls that take long.
func metricsHandler(registry *prometheus.Registry, w *worker.Worker) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /segments", func(out http.ResponseWriter, _ *http.Request) { answer(out, w.Holdings()) })
	mux.HandleFunc("GET /calls", func(out http.ResponseWriter, _ *http.Request) { answer(out, w.Calls()) })
	return mux
}

func answer(out http.ResponseWriter, value any) {
	out.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(out).Encode(value); err != nil {
		slog.Debug("answering who owns what", "error", err) // the asker has gone
	}
}

// serve answers requests for as long as the process lives. A port that is taken does not keep events from being processed.
func serve(address string, h http.Handler, log *slog.Logger) {
	if address == "" {
		return
	}
	server := &http.Server{Addr: address, Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { log.Error("no longer serving", "address", address, "error", server.ListenAndServe()) }()
}

// newLog logs as JSON. Durations are written as people read them, such as 1m0.25s: JSON would have
// nanoseconds.
func newLog(out io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindDuration {
			a.Value = slog.StringValue(a.Value.Duration().Round(time.Millisecond).String())
		}
		return a
	}}))
}
