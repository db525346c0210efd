package images

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push writes the image to the registry in its name, with the credentials of `docker login`.
func (i *Image) Push(ctx context.Context) error {
	if err := remote.Write(i.tag, i.image, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("pushing %s (IMAGE_PREFIX names the registry, `docker login` its credentials): %w", i.Ref, err)
	}
	return nil
}
