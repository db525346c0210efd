//go:build linux

package local

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// output runs a program to its end and returns what it printed. Its complaints become the error.
func output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return pipe(ctx, nil, name, args...)
}

// run is output for programs of which only success matters.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// pipe is output with something on the program's standard input.
func pipe(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := complete(cmd, stdin)
	return out.Bytes(), err
}

// complete runs cmd to its end. Its error ends with what the program complained.
func complete(cmd *exec.Cmd, stdin []byte) error {
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(append([]string{filepath.Base(cmd.Path)}, cmd.Args[1:]...), " "), err,
			strings.TrimSpace(complaint.String()))
	}
	return nil
}

// writeFile writes a file whole or not at all, and makes its folder.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	part := path + ".part"
	if err := os.WriteFile(part, content, mode); err != nil {
		return err
	}
	return os.Rename(part, path)
}
