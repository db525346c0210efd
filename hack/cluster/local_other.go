//go:build !linux

package main

import (
	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

func runHidden(string, []string) bool { return false }

func faultCommands(*progress.Log) []*cobra.Command { return nil }
