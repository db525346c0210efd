// Package system puts a whole Sluice on a cluster, for the demo and the end-to-end tests: the cluster and the database of
// hack/cluster, images, the charts. Commands are run from the repository's root.
package system

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// System is a cluster with a database.
type System struct {
	Root        string // of the repository
	Kubeconfig  string
	DatabaseURL string // for this process
	Database    *pgxpool.Pool
	Kube        *kubernetes.Clientset
	Images      Images
	kubectl     string // its path
}

// PodURL is how pods reach the database, on every kind of cluster.
const PodURL = "postgres://app:app@postgres.default.svc:5432/app?sslmode=disable"

// Images that pods run.
type Images struct{ Sluice, Payments string }

// Run runs a program in the repository's root and returns what it wrote to stdout; an error holds all that it wrote.
func (s *System) Run(ctx context.Context, name string, args ...string) (string, error) {
	return s.Feed(ctx, "", name, args...)
}

// Feed is Run with an input.
func (s *System) Feed(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = s.Root, append(os.Environ(), "KUBECONFIG="+s.Kubeconfig, "CGO_ENABLED=0")
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String()), nil
}

// Kubectl runs kubectl against the cluster.
func (s *System) Kubectl(ctx context.Context, args ...string) (string, error) {
	return s.Run(ctx, s.kubectl, args...)
}

// Apply applies manifests on the server's side.
func (s *System) Apply(ctx context.Context, namespace, manifests string) error {
	_, err := s.Feed(ctx, manifests, s.kubectl, "apply", "--server-side", "--force-conflicts", "--namespace", namespace, "-f", "-")
	return err
}

// Cluster runs a command of hack/cluster, which tells on stderr what it does: the first time it builds Kubernetes.
func (s *System) Cluster(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "-C", "hack/cluster", "."}, args...)...)
	cmd.Dir, cmd.Stdin, cmd.Stderr = s.Root, os.Stdin, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hack/cluster %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Up brings the cluster up and connects to it.
func (s *System) Up(ctx context.Context) (err error) {
	if _, err = s.Cluster(ctx, "up"); err != nil {
		return err
	}
	if s.Kubeconfig, err = s.Cluster(ctx, "kubeconfig"); err != nil {
		return err
	}
	if s.kubectl, err = s.Cluster(ctx, "tool", "kubectl"); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit of its own
	s.Kube, err = kubernetes.NewForConfig(config)
	return err
}

// StartDatabase starts PostgreSQL and connects to it.
func (s *System) StartDatabase(ctx context.Context) error {
	out, err := s.Cluster(ctx, "postgres")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), "export DATABASE_URL="); found {
			s.DatabaseURL = strings.Trim(value, "'")
		}
	}
	if s.DatabaseURL == "" {
		return errors.New("hack/cluster postgres did not say how to reach the database")
	}
	s.Database, err = pgxpool.New(ctx, s.DatabaseURL)
	return err
}

// BuildImages builds the programs and brings their images to the cluster.
func (s *System) BuildImages(ctx context.Context) error {
	refs, err := s.images(ctx, program{"sluice", "./cmd/sluice"}, program{"payments", "./examples/payments"})
	if err != nil {
		return err
	}
	s.Images.Sluice, s.Images.Payments = refs[0], refs[1]
	return nil
}

// BuildImage builds a program, brings its image to the cluster and returns the image's name.
func (s *System) BuildImage(ctx context.Context, name, path string) (string, error) {
	refs, err := s.images(ctx, program{name, path})
	if err != nil {
		return "", err
	}
	return refs[0], nil
}

// program is a main package of this module, with the name of its image.
type program struct{ name, path string }

// Build makes a program of this module, always with the same flags, so that nothing is compiled
// twice.
func (s *System) Build(ctx context.Context, file, path string) error {
	_, err := s.Run(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, path)
	return err
}

// images brings an image of each program to the cluster, and returns their names.
func (s *System) images(ctx context.Context, programs ...program) (refs []string, err error) {
	dir, err := os.MkdirTemp("", "sluice-images-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args := []string{"image"}
	for _, p := range programs {
		file := filepath.Join(dir, p.name)
		if err := s.Build(ctx, file, p.path); err != nil {
			return nil, err
		}
		args = append(args, p.name+"="+file)
	}
	out, err := s.Cluster(ctx, args...)
	if err != nil {
		return nil, err
	}
	if refs = strings.Fields(out); len(refs) != len(programs) {
		return nil, fmt.Errorf("hack/cluster image named %q", out)
	}
	return refs, nil
}

// InstallChart installs or upgrades the operator in the namespace sluice-system.
func (s *System) InstallChart(ctx context.Context) error {
	helm, err := s.Cluster(ctx, "tool", "helm")
	if err != nil {
		return err
	}
	if _, err := s.Run(ctx, helm, "dependency", "build", "charts/sluice"); err != nil {
		return err
	}
	i := strings.LastIndex(s.Images.Sluice, ":")
	_, err = s.Run(ctx, helm, "upgrade", "--install", "sluice", "charts/sluice", "--namespace", "sluice-system", "--create-namespace",
		"--set-string", "image.repository="+s.Images.Sluice[:i], "--set-string", "image.tag="+s.Images.Sluice[i+1:], "--wait", "--timeout", "3m")
	return err
}

// UninstallChart removes the operator.
func (s *System) UninstallChart(ctx context.Context) error {
	helm, err := s.Cluster(ctx, "tool", "helm")
	if err != nil {
		return err
	}
	_, err = s.Run(ctx, helm, "uninstall", "sluice", "--namespace", "sluice-system", "--ignore-not-found")
	return err
}

// Payments are the example's manifests, with the image and the Secret that they need: url is the way to the database.
func (s *System) Payments(url string) (string, error) {
	text := "apiVersion: v1\nkind: Secret\nmetadata: {name: payments-db}\nstringData: {uri: \"" + url + "\"}\n"
	for _, name := range []string{"service.yaml", "processor.yaml"} {
		manifest, err := os.ReadFile(filepath.Join(s.Root, "examples/payments", name))
		if err != nil {
			return "", err
		}
		text += "---\n" + strings.Replace(string(manifest), "image: sluice.local/payments", "image: "+s.Images.Payments, 1)
	}
	return text, nil
}

// Post posts a payment to the example through the API server, which works with every cluster.
func (s *System) Post(ctx context.Context, namespace, amount, currency string) error {
	_, err := s.post(ctx, namespace, "services/http:payments:http", amount, currency)
	return err
}

// PostTo posts a payment to one pod of the example and returns the payment's id.
func (s *System) PostTo(ctx context.Context, namespace, pod, amount, currency string) (id string, err error) {
	return s.post(ctx, namespace, "pods/http:"+pod+":8080", amount, currency)
}

func (s *System) post(ctx context.Context, namespace, to, amount, currency string) (id string, err error) {
	body := fmt.Sprintf(`{"amount": %q, "currency": %q}`, amount, currency)
	answer, err := s.Kube.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/"+namespace+"/"+to+"/proxy/payments").
		SetHeader("Content-Type", "application/json").Body([]byte(body)).DoRaw(ctx)
	if err != nil {
		return "", err
	}
	var posted struct{ ID string }
	if err := json.Unmarshal(answer, &posted); err != nil {
		return "", fmt.Errorf("reading the answer to a payment: %w", err)
	}
	return posted.ID, nil
}
