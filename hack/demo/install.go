package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// podURL is how pods reach the database, on every kind of cluster.
const podURL = "postgres://app:app@postgres.default.svc:5432/app?sslmode=disable"

// demo is a running system.
type demo struct {
	kubeconfig, databaseURL string
	database                *pgxpool.Pool
	kube                    *kubernetes.Clientset
	posted                  int
}

func (d *demo) close() { d.database.Close() }

// step does one thing, and says how long it took.
func step(name string, work func() error) error {
	began := time.Now()
	if err := work(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	say("%-62s %6.1f s", name, time.Since(began).Seconds())
	return nil
}

// command runs a program and returns what it wrote to stdout. What it wrote to stderr is shown when it fails.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// cluster runs a command of hack/cluster, which talks while it works: the first time it builds Kubernetes.
func cluster(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "-C", "hack/cluster", "."}, args...)...)
	cmd.Stdin, cmd.Stderr = os.Stdin, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hack/cluster %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// install brings up cluster, database, operator and example.
func install(ctx context.Context) (*demo, error) {
	d := &demo{}
	var images []string
	for _, s := range []struct {
		name string
		work func() error
	}{
		{"a Kubernetes (make cluster)", func() error { return d.bringUp(ctx) }},
		{"a PostgreSQL (make postgres)", func() error { return d.startDatabase(ctx) }},
		{"images of Sluice and the example", func() (err error) { images, err = buildImages(ctx); return err }},
		{"the operator, by its chart", func() error { return d.installChart(ctx, images[0]) }},
		{"kubectl apply of examples/payments, three replicas", func() error { return d.apply(ctx, images[1]) }},
	} {
		if err := step(s.name, s.work); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *demo) bringUp(ctx context.Context) (err error) {
	if _, err = cluster(ctx, "up"); err != nil {
		return err
	}
	if d.kubeconfig, err = cluster(ctx, "kubeconfig"); err != nil {
		return err
	}
	os.Setenv("KUBECONFIG", d.kubeconfig)
	config, err := clientcmd.BuildConfigFromFlags("", d.kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit of its own
	d.kube, err = kubernetes.NewForConfig(config)
	return err
}

func (d *demo) startDatabase(ctx context.Context) error {
	out, err := cluster(ctx, "postgres")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), "export DATABASE_URL="); found {
			d.databaseURL = strings.Trim(value, "'")
		}
	}
	if d.databaseURL == "" {
		return errors.New("hack/cluster postgres did not say how to reach the database")
	}
	d.database, err = pgxpool.New(ctx, d.databaseURL)
	return err
}

// buildImages returns the names of the images of Sluice and of the example.
func buildImages(ctx context.Context) ([]string, error) {
	dir, err := os.MkdirTemp("", "sluice-demo-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := []string{"image"}
	os.Setenv("CGO_ENABLED", "0")
	for name, path := range map[string]string{"sluice": "./cmd/sluice", "payments": "./examples/payments"} {
		program := filepath.Join(dir, name)
		if _, err := command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, path); err != nil {
			return nil, err
		}
		args = append(args, name+"="+program)
	}
	out, err := cluster(ctx, args...)
	if err != nil {
		return nil, err
	}
	var images [2]string
	for _, name := range strings.Fields(out) {
		switch {
		case strings.Contains(name, "/sluice:"):
			images[0] = name
		case strings.Contains(name, "/payments:"):
			images[1] = name
		}
	}
	if images[0] == "" || images[1] == "" {
		return nil, fmt.Errorf("hack/cluster image named %q", out)
	}
	return images[:], nil
}

func (d *demo) installChart(ctx context.Context, image string) error {
	helm, err := cluster(ctx, "tool", "helm")
	if err != nil {
		return err
	}
	if _, err := command(ctx, helm, "dependency", "build", "charts/sluice"); err != nil {
		return err
	}
	repository, tag := split(image)
	_, err = command(ctx, helm, "upgrade", "--install", "sluice", "charts/sluice", "--namespace", "sluice-system", "--create-namespace",
		"--set", "image.repository="+repository, "--set", "image.tag="+tag, "--wait", "--timeout", "3m")
	return err
}

func split(image string) (repository, tag string) {
	i := strings.LastIndex(image, ":")
	return image[:i], image[i+1:]
}

func (d *demo) apply(ctx context.Context, image string) error {
	manifest, err := os.ReadFile("examples/payments/processor.yaml")
	if err != nil {
		return err
	}
	text := strings.Replace(string(manifest), "image: sluice.local/payments", "image: "+image, 1)
	service, err := os.ReadFile("examples/payments/service.yaml")
	if err != nil {
		return err
	}
	secret := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: payments-db}\nstringData: {uri: %q}\n", podURL)
	cmd := exec.CommandContext(ctx, "kubectl", "apply", "--server-side", "--force-conflicts", "-f", "-")
	cmd.Stdin = strings.NewReader(secret + "---\n" + string(service) + "---\n" + text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	if _, err := command(ctx, "kubectl", "wait", "--for=condition=Ready", "--timeout=3m", "eventprocessor/payments"); err != nil {
		return err
	}
	return d.settle(ctx, 3)
}

// remove takes away what show has made.
func remove(ctx context.Context) error {
	if os.Getenv("CONTEXT") == "" {
		_, err := cluster(ctx, "down")
		return err
	}
	kubeconfig, err := cluster(ctx, "kubeconfig")
	if err != nil {
		return err
	}
	os.Setenv("KUBECONFIG", kubeconfig)
	helm, err := cluster(ctx, "tool", "helm")
	if err != nil {
		return err
	}
	_, deleted := command(ctx, "kubectl", "delete", "--ignore-not-found", "eventprocessor/payments", "service/payments", "secret/payments-db")
	_, uninstalled := command(ctx, helm, "uninstall", "sluice", "--namespace", "sluice-system", "--ignore-not-found")
	_, stopped := cluster(ctx, "postgres-down")
	return errors.Join(deleted, uninstalled, stopped)
}
