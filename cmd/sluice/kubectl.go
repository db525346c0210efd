package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluice-project/sluice/cmd/sluice/kubectl"
)

// kubectlCommands talk to a cluster.
func kubectlCommands() []*cobra.Command {
	return []*cobra.Command{kubectl.Status(), kubectl.Segments(), kubectl.Replay(), kubectl.Pause(), kubectl.Resume()}
}

// displayName is how this binary was called: kubectl finds it as a plugin by the name kubectl-sluice.
func displayName() string {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-") {
		return "kubectl sluice"
	}
	return "sluice"
}
