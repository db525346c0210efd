// Package images makes container images of static Go programs, without a base image and without a container engine.
//
// The same files always make the same image: times are zero and the order is that of the names. So an image without a
// tag gets a tag from its content, and a Deployment that is given it rolls exactly when something changed.
package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// DefaultPrefix is a registry that does not exist, so that nothing is ever pulled from it by accident.
const DefaultPrefix = "sluice.local/"

// user is who programs in our images run as; the number that distroless images use.
const user = "65532:65532"

// Spec says what goes into an image.
type Spec struct {
	Name  string   // with or without a registry, with or without a tag
	Files []string // static programs; the first is the entrypoint
}

// Image is one that was built.
type Image struct {
	Ref     string // what a pod names
	Content bool   // the tag comes from the content, so equal names mean equal images
	tag     name.Tag
	image   v1.Image
}

// ParseSpec reads "NAME=path[,path…]".
func ParseSpec(s string) (Spec, error) {
	imageName, files, found := strings.Cut(s, "=")
	if !found || imageName == "" || files == "" {
		return Spec{}, fmt.Errorf("%q is not NAME=path-of-a-static-program[,path…]", s)
	}
	return Spec{Name: imageName, Files: strings.Split(files, ",")}, nil
}

// Build makes the image. prefix is put before a name without a registry.
func Build(spec Spec, prefix string) (*Image, error) {
	layer, err := layerOf(spec.Files)
	if err != nil {
		return nil, fmt.Errorf("building image %s: %w", spec.Name, err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("building image %s: %w", spec.Name, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.User = user
	config.Config.WorkingDir = "/"
	config.Config.Env = []string{"PATH=/", "SSL_CERT_FILE=" + certificatesInside}
	config.Config.Entrypoint = []string{"/" + filepath.Base(spec.Files[0])}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	full, content := reference(spec.Name, prefix, digest)
	tag, err := name.NewTag(full)
	if err != nil {
		return nil, fmt.Errorf("%q cannot name an image: %w", full, err)
	}
	return &Image{Ref: tag.Name(), Content: content, tag: tag, image: image}, nil
}

// reference completes a name by the prefix, if it has no registry, and by a tag from the content, if it has no tag. It
// says whether it did the latter.
func reference(imageName, prefix string, digest v1.Hash) (full string, content bool) {
	if !strings.Contains(imageName, "/") {
		imageName = prefix + imageName
	}
	if last := imageName[strings.LastIndex(imageName, "/")+1:]; strings.Contains(last, ":") {
		return imageName, false
	}
	return imageName + ":" + digest.Hex[:12], true
}

// Archive writes the image into a file in dir, in the format of `docker save`, and returns the file's path.
func (i *Image) Archive(dir string) (string, error) {
	f, err := os.CreateTemp(dir, "image-*.tar")
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := tarball.Write(i.tag, i.image, f); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("writing the archive of %s: %w", i.Ref, err)
	}
	return f.Name(), nil
}

// certificatesHost and certificatesInside are where the certificates of public authorities are on Debian, and where
// Go programs in the image find them.
const (
	certificatesHost   = "/etc/ssl/certs/ca-certificates.crt"
	certificatesInside = "/etc/ssl/certs/ca-certificates.crt"
)

func layerOf(files []string) (v1.Layer, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, dir := range []struct {
		name string
		mode int64
	}{{"etc/", 0o755}, {"etc/ssl/", 0o755}, {"etc/ssl/certs/", 0o755}, {"tmp/", 0o1777}} {
		if err := w.WriteHeader(&tar.Header{Name: dir.name, Mode: dir.mode, Typeflag: tar.TypeDir}); err != nil {
			return nil, err
		}
	}
	if content, err := os.ReadFile(certificatesHost); err == nil {
		if err := add(w, certificatesInside[1:], content, 0o644); err != nil {
			return nil, err
		}
	}
	for _, file := range files {
		if err := checkStatic(file); err != nil {
			return nil, err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := add(w, filepath.Base(file), content, 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	})
}

func add(w *tar.Writer, path string, content []byte, mode int64) error {
	if err := w.WriteHeader(&tar.Header{Name: path, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// checkStatic refuses what would not start in an image without libraries.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s is not a program for Linux (build it with GOOS=linux CGO_ENABLED=0): %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs shared libraries: build it with CGO_ENABLED=0", path)
		}
	}
	return nil
}
