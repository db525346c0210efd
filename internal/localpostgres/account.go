package localpostgres

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user as whom the server runs; nil means the user of this process.
type account struct{ uid, gid int }

// unprivileged returns an account for the server when this process is root's, and nil otherwise.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return nil, fmt.Errorf("user %s has the id %q: %w", name, u.Uid, err)
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return nil, fmt.Errorf("user %s has the group id %q: %w", name, u.Gid, err)
		}
		return &account{uid, gid}, nil
	}
	return nil, fmt.Errorf("PostgreSQL refuses to run as root and there is neither a user postgres nor a user nobody: run as another user")
}

// own hands a directory that this process made to the account.
func (a *account) own(dir string) error {
	if a == nil {
		return nil
	}
	if err := os.Chown(dir, a.uid, a.gid); err != nil {
		return fmt.Errorf("handing %s to the server's user: %w", dir, err)
	}
	return nil
}

func (a *account) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if a != nil {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}
