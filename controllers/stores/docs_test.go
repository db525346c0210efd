package stores

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-project/sluice/internal/docstest"
)

func TestTheDocsHaveEveryMetricOfTheOperator(t *testing.T) {
	docs := docstest.FirstCells(docstest.Section(t, "../../docs/operations/operator.md", "### Metrics of the operator"))
	if diff := cmp.Diff(docstest.Metrics(&Metrics{}), docs); diff != "" {
		t.Errorf("-code +docs:\n%s", diff)
	}
}
