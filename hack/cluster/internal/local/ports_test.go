//go:build linux

package local

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func listenHere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestAPortOfTheClusterThatSomebodyElseHasIsAnError(t *testing.T) {
	taken := listenHere(t)
	before := portsFree(taken)
	held, after := heldBy(postgresCgroup, taken)
	if held {
		t.Error("a port of this test is said to be the cluster's")
	}
	for what, err := range map[string]error{"before the start": before, "after it": after} {
		if err == nil {
			t.Errorf("%s: no error", what)
			continue
		}
		for _, part := range []string{taken, fmt.Sprintf("process %d", os.Getpid())} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q lacks %q", what, err, part)
			}
		}
	}
}

func TestAComponentIsNotReadyIfSomebodyElseAnswersForIt(t *testing.T) {
	taken := listenHere(t)
	comp := component{name: "etcd", listens: func(Net) []string { return []string{taken} }, answers: func(Net) bool { return true }}
	if comp.ready(Net{}) {
		t.Error("it is ready by the answer of this test")
	}
}

func TestAPortThatNobodyHasIsNotHeld(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l.Addr().String()
	l.Close()
	if held, err := heldBy(postgresCgroup, free); held || err != nil {
		t.Errorf("held: %v, error: %v", held, err)
	}
	if err := portsFree(free); err != nil {
		t.Error(err)
	}
}

func TestEveryDaemonOnTheHostNamesItsPorts(t *testing.T) {
	n := Net{Cluster: "10.244", Services: "10.96"}
	for _, comp := range controlPlane(probes{}) {
		if len(comp.listens(n)) == 0 {
			t.Errorf("%s names none", comp.name)
		}
	}
	for _, node := range nodes(n) {
		if got := len(node.listens()); node.Own != (got == 0) {
			t.Errorf("%s names %d", node.Name, got)
		}
	}
}
