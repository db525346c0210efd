package localpostgres

import "syscall"

// dieWithParent has the kernel ask the server for a fast shutdown when this process dies without having done so.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }
