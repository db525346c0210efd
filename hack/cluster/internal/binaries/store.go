package binaries

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

// Store is the user's cache of built programs.
type Store struct {
	Sources string // the folder that holds one Go module a folder
	Cache   string
	Log     *progress.Log
}

// Open returns the store of this user. It has to be called somewhere inside the repository, which holds the modules.
func Open(log *progress.Log) (*Store, error) {
	wd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("looking for hack/cluster/binaries: %w", err)
	}
	sources, err := findSources(wd)
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &Store{Sources: sources, Cache: filepath.Join(cache, "binaries"), Log: log}, nil
}

// CacheDir is where this user's caches for Sluice live: ${XDG_CACHE_HOME:-$HOME/.cache}/sluice, on macOS below
// ~/Library/Caches unless XDG_CACHE_HOME is set.
func CacheDir() (string, error) {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "sluice"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("looking for a cache folder (set XDG_CACHE_HOME): %w", err)
	}
	return filepath.Join(dir, "sluice"), nil
}

func findSources(from string) (string, error) {
	for dir := from; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{"binaries", "hack/cluster/binaries"} {
			path := filepath.Join(dir, candidate)
			if _, err := os.Stat(filepath.Join(path, "kubernetes", "go.mod")); err == nil {
				return path, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no hack/cluster/binaries at or above %s: run this inside the repository", from)
		}
	}
}

// Path is where p is, or will be once it is built.
func (s *Store) Path(p Program) (string, error) {
	version, err := p.version(s.Sources)
	if err != nil {
		return "", err
	}
	folder := strings.Join([]string{p.Module, version, runtime.GOOS, runtime.GOARCH}, "-")
	return filepath.Join(s.Cache, folder, p.Name), nil
}

// Missing returns those of the named programs that have to be built.
func (s *Store) Missing(names ...string) ([]Program, error) {
	var missing []Program
	for _, name := range names {
		p, err := Find(name)
		if err != nil {
			return nil, err
		}
		path, err := s.Path(p)
		if err != nil {
			return nil, err
		}
		if !isExecutable(path) {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// Ensure returns the path of the program called name and builds it if the cache does not hold it.
func (s *Store) Ensure(ctx context.Context, name string) (string, error) {
	p, err := Find(name)
	if err != nil {
		return "", err
	}
	path, err := s.Path(p)
	if err != nil || isExecutable(path) {
		return path, err
	}
	unlock, err := lock(filepath.Dir(path), s.Log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if isExecutable(path) { // built by the one who held the lock
		return path, nil
	}
	step := fmt.Sprintf("building %s (kept in %s)", name, filepath.Dir(path))
	return path, s.Log.Step(step, func() error { return s.build(ctx, p, path) })
}

// build makes p and stamps its version.
func (s *Store) build(ctx context.Context, p Program, path string) error {
	version, err := p.version(s.Sources)
	if err != nil {
		return err
	}
	return s.goBuild(ctx, filepath.Join(s.Sources, p.Module), p.Package, p.ldflags(version), path)
}

// Build makes the program whose source is in dir, outside the cache. Go's own cache makes a second time cheap.
func (s *Store) Build(ctx context.Context, dir, path string) error {
	return s.goBuild(ctx, dir, ".", "-s -w", path)
}

// goBuild leaves path alone until the program is whole and on disk.
func (s *Store) goBuild(ctx context.Context, dir, pkg, ldflags, path string) error {
	removeUnfinished(path)
	part := unfinished(path)
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-ldflags", ldflags, "-o", part, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	cmd.Stdout, cmd.Stderr = s.Log.Out, s.Log.Out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s in %s: %w", pkg, dir, err)
	}
	if err := syncFile(part); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// Assets ensures etcd, kube-apiserver and kubectl and returns one folder that holds all three, as the test environment
// of controller-runtime wants them (KUBEBUILDER_ASSETS).
func (s *Store) Assets(ctx context.Context) (string, error) {
	var paths, folders []string
	for _, name := range []string{"kube-apiserver", "etcd", "kubectl"} {
		path, err := s.Ensure(ctx, name)
		if err != nil {
			return "", err
		}
		paths = append(paths, path)
		folders = append(folders, filepath.Base(filepath.Dir(path)))
	}
	dir := filepath.Join(s.Cache, "assets-"+folders[0]+"-"+folders[1])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, path := range paths {
		if err := link(path, filepath.Join(dir, filepath.Base(path))); err != nil {
			return "", fmt.Errorf("linking %s into %s: %w", filepath.Base(path), dir, err)
		}
	}
	return dir, nil
}

// link makes at a symbolic link to target, by rename so that nobody sees it missing.
func link(target, at string) error {
	if current, err := os.Readlink(at); err == nil && current == target {
		return nil
	}
	part := unfinished(at)
	if err := os.Symlink(target, part); err != nil {
		return err
	}
	return os.Rename(part, at)
}

func unfinished(path string) string {
	return fmt.Sprintf("%s.unfinished-%d", path, os.Getpid())
}

// removeUnfinished deletes what builds that were killed left. The caller holds the folder's lock, so none is at work.
func removeUnfinished(path string) {
	leftovers, _ := filepath.Glob(path + ".unfinished-*")
	for _, l := range leftovers {
		os.Remove(l)
	}
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// lock takes the folder's lock, which the kernel drops when its holder dies.
func lock(dir string, log *progress.Log) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		log.Say("waiting for another build into %s", dir)
		if err := flock(int(f.Fd())); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", dir, err)
		}
	}
	return func() { f.Close() }, nil
}

func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}
