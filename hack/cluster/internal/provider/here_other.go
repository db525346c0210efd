//go:build !linux

package provider

import (
	"errors"

	"github.com/sluice-project/sluice/hack/cluster/internal/binaries"
	"github.com/sluice-project/sluice/hack/cluster/internal/progress"
)

func newHere(*binaries.Store, *progress.Log) (Provider, error) {
	return nil, errors.New("a cluster on this machine itself needs Linux")
}
