package dev

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// folder is .sluice: it holds the data of a PostgreSQL of dev's own, the folder's ID, and the URL
// of the database while dev runs.
type folder struct {
	path string
	lock *os.File
	urls []*os.File // of databases, locked while dev runs
}

// Files with URLs.
const (
	storeURL  = "url"
	sourceURL = "source-url"
)

// takeFolder makes the folder where there is none, and takes it: one dev a folder.
func takeFolder(path string) (*folder, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	if err := os.WriteFile(filepath.Join(path, ".gitignore"), []byte("*\n"), 0o644); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another sluice dev runs with %s: end it, or run this one in another folder", path), lock.Close())
	}
	return &folder{path: path, lock: lock}, nil
}

// installation returns the ID by which a database knows this folder's processors from those of
// other people's.
func (f *folder) installation() (string, error) {
	file := filepath.Join(f.path, "installation")
	text, err := os.ReadFile(file)
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading this folder's ID: %w", err)
	}
	id := strings.ToLower(rand.Text()[:12])
	if err := os.WriteFile(file, []byte(id+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("writing down this folder's ID: %w", err)
	}
	return id, nil
}

func urlFile(path, name string) string { return filepath.Join(path, name) }

// publish writes a database's URL for other commands. It may hold a password. The file is locked
// until this process ends, however it ends: a URL without a lock was left behind, and another
// server may listen there by now. It gets its name when it is locked and complete.
func (f *folder) publish(name, url string) error {
	file, err := os.CreateTemp(f.path, "url-*") // which only its owner may read
	if err != nil {
		return fmt.Errorf("writing down the database's URL: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = file.WriteString(url + "\n")
	}
	if err == nil {
		err = os.Rename(file.Name(), urlFile(f.path, name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing down the database's URL: %w", err), file.Close(), os.Remove(file.Name()))
	}
	f.urls = append(f.urls, file)
	return nil
}

func (f *folder) release() error {
	var all []error
	for _, name := range []string{storeURL, sourceURL} {
		if err := os.Remove(urlFile(f.path, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			all = append(all, err)
		}
	}
	for _, file := range f.urls {
		all = append(all, file.Close())
	}
	return errors.Join(errors.Join(all...), f.lock.Close())
}

// RunningURL returns the URL of the store of the dev that runs with a folder, by default that of
// the current one. What a dev that was killed has left behind does not count.
func RunningURL(path string) (string, error) {
	url, err := published(path, storeURL)
	if err == nil && url == "" {
		return "", errors.New("no database given, and no sluice dev runs in this folder: " +
			"set --database-url or SLUICE_DATABASE_URL, or start sluice dev")
	}
	return url, err
}

// RunningSourceURL returns the URL of the database with Sluice's own event table that the dev which
// runs with a folder reads; empty if that is the store's, or none runs.
func RunningSourceURL(path string) (string, error) { return published(path, sourceURL) }

// published returns a URL of the dev that runs with a folder; empty if there is none.
func published(path, name string) (_ string, err error) {
	if path == "" {
		path = ".sluice"
	}
	file, err := os.Open(urlFile(path, name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for a running sluice dev: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	switch err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); {
	case err == nil:
		return "", nil
	case !errors.Is(err, syscall.EWOULDBLOCK):
		return "", fmt.Errorf("looking for a running sluice dev: %w", err)
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return "", fmt.Errorf("looking for a running sluice dev: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
