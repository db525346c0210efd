package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sluice-project/sluice/definition"
)

// manifest is the file as it was read.
type manifest struct {
	text     []byte
	document definition.Document
}

// change is a manifest that was saved, or why it is not valid.
type change struct {
	manifest manifest
	err      error
}

func readManifest(file string) (manifest, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return manifest{}, fmt.Errorf("reading the manifest: %w", err)
	}
	document, err := definition.ParseYAML(text)
	return manifest{text, document}, err
}

// lookEvery is the time between two looks at the manifest. It is read rather than watched: editors replace files, and not
// every file system tells of changes.
const lookEvery = 200 * time.Millisecond

// watch tells of every change of the manifest's text.
func watch(ctx context.Context, file string, last manifest) <-chan change {
	changes := make(chan change)
	go func() {
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		text := last.text
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			found, err := readManifest(file)
			if errors.Is(err, os.ErrNotExist) || bytes.Equal(found.text, text) { // an editor may be about to write it
				continue
			}
			text = found.text
			select {
			case <-ctx.Done():
				return
			case changes <- change{found, err}:
			}
		}
	}()
	return changes
}
