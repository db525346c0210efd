package dev

import (
	"os"
	"syscall"
	"testing"
)

// TestAURLThatWasLeftBehindIsNotPublished has another command look while dev begins to publish: it
// gets the URL of a dev that was killed neither before nor meanwhile.
func TestAURLThatWasLeftBehindIsNotPublished(t *testing.T) {
	path := t.TempDir()
	for _, name := range []string{storeURL, sourceURL} {
		if err := os.WriteFile(urlFile(path, name), []byte("postgres://left-behind\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := takeFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	if url, err := RunningURL(path); err == nil {
		t.Errorf("before: %s", url)
	}
	left, err := os.Open(urlFile(path, storeURL))
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	if err := f.publish(storeURL, "postgres://running"); err != nil {
		t.Fatal(err)
	}
	if url, err := RunningSourceURL(path); err != nil || url != "" {
		t.Errorf("a dev whose events are in the store has a source at %q: %v", url, err)
	}
	if err := f.publish(sourceURL, "postgres://events"); err != nil {
		t.Fatal(err)
	}
	if url, err := RunningSourceURL(path); err != nil || url != "postgres://events" {
		t.Errorf("source at %q: %v", url, err)
	}
	if err := syscall.Flock(int(left.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		t.Errorf("the file that was left behind is locked, as if its URL were of a dev that runs: %v", err)
	}
	if url, err := RunningURL(path); err != nil || url != "postgres://running" {
		t.Errorf("%q: %v", url, err)
	}
	if err := f.release(); err != nil {
		t.Fatal(err)
	}
	if url, err := RunningURL(path); err == nil {
		t.Errorf("afterwards: %s", url)
	}
	if url, err := RunningSourceURL(path); err != nil || url != "" {
		t.Errorf("afterwards the source is at %q: %v", url, err)
	}
}
