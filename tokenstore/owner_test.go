package tokenstore_test

import (
	"strings"
	"testing"

	"github.com/sluice-project/sluice/tokenstore"
)

func TestOwnerMayTake(t *testing.T) {
	mine := tokenstore.Owner{Processor: "prod/shop/orders", Installation: "a", TakeOverFrom: []string{"old/shop/bills@z", "old/shop/plain"}}
	for name, test := range map[string]struct {
		from tokenstore.Owner
		want bool
	}{
		"its own":                                {tokenstore.Owner{Processor: "prod/shop/orders", Installation: "a"}, true},
		"its own, from before there were ids":    {tokenstore.Owner{Processor: "prod/shop/orders"}, true},
		"of a cluster of the same name":          {tokenstore.Owner{Processor: "prod/shop/orders", Installation: "b"}, false},
		"its own under another cluster name":     {tokenstore.Owner{Processor: "kubernetes/shop/orders", Installation: "a"}, true},
		"of another cluster":                     {tokenstore.Owner{Processor: "kubernetes/shop/orders", Installation: "b"}, false},
		"of another name and of nobody":          {tokenstore.Owner{Processor: "kubernetes/shop/orders"}, false},
		"another processor's":                    {tokenstore.Owner{Processor: "prod/shop/bills", Installation: "a"}, false},
		"by consent":                             {tokenstore.Owner{Processor: "old/shop/bills", Installation: "z"}, true},
		"by consent to another installation":     {tokenstore.Owner{Processor: "old/shop/bills", Installation: "y"}, false},
		"by consent to one without an id":        {tokenstore.Owner{Processor: "old/shop/plain"}, true},
		"by consent that is older than its id":   {tokenstore.Owner{Processor: "old/shop/plain", Installation: "z"}, false},
		"of an owner without a name, imported":   {tokenstore.Owner{}, false}, // such groups are retired
		"in another namespace, same object name": {tokenstore.Owner{Processor: "prod/billing/orders", Installation: "a"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mine.MayTake(test.from); got != test.want {
				t.Errorf("may take: %t, want %t", got, test.want)
			}
		})
	}
}

func TestGroupConflictSaysWhatToDo(t *testing.T) {
	by := tokenstore.Owner{Processor: "prod/shop/orders", Installation: "a"}
	for name, test := range map[string]struct {
		err  tokenstore.GroupConflictError
		want []string
	}{
		"another processor": {tokenstore.GroupConflictError{Group: "view", Owner: tokenstore.Owner{Processor: "prod/shop/bills", Installation: "a"}, By: by},
			[]string{"processing group view belongs to processor prod/shop/bills@a", "name it otherwise", `add "prod/shop/bills@a" to spec.takeOverFrom`}},
		"the cluster's name was changed": {tokenstore.GroupConflictError{Group: "view", Owner: tokenstore.Owner{Processor: "kubernetes/shop/orders"}, By: by},
			[]string{"belongs to processor kubernetes/shop/orders, which differs", "If the operator's clusterName was changed, set it back to kubernetes", `add "kubernetes/shop/orders" to spec.takeOverFrom to keep prod`}},
		"another installation": {tokenstore.GroupConflictError{Group: "view", Owner: tokenstore.Owner{Processor: "prod/shop/orders", Installation: "b"}, By: by},
			[]string{"prod/shop/orders@b of another installation", `this one is "a"`, "another clusterName", `add "prod/shop/orders@b" to spec.takeOverFrom`, "formerInstallations"}},
		"the processor's name": {tokenstore.GroupConflictError{Owner: tokenstore.Owner{Processor: "prod/shop/orders", Installation: "b"}, By: by},
			[]string{"the name of this processor belongs to processor prod/shop/orders@b"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, want := range test.want {
				if got := test.err.Error(); !strings.Contains(got, want) {
					t.Errorf("got %s\nwant %q in it", got, want)
				}
			}
		})
	}
}
