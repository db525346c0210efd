package desired

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	coreac "k8s.io/client-go/applyconfigurations/core/v1"
)

// definitionKey is the file that the worker reads its definition from.
const definitionKey = "definition.json"

// longestDefinition is what a ConfigMap can hold.
const longestDefinition = 1 << 20

// ConfigMap is the wanted definition. It is immutable: another definition is another object, so that old pods keep theirs.
func ConfigMap(p Processor) (*coreac.ConfigMapApplyConfiguration, error) {
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false) // people read the SQL in it
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(p.Spec.Definition()); err != nil {
		return nil, fmt.Errorf("writing the definition: %w", err)
	}
	if data.Len() > longestDefinition {
		return nil, fmt.Errorf("the definition has %d bytes as JSON and may have %d: "+
			"move groups into a second EventProcessor, or SQL into functions of the database", data.Len(), longestDefinition)
	}
	labels := p.Labels()
	maps.Copy(labels, map[string]string{LabelDefinition: p.ID})
	return coreac.ConfigMap(p.ConfigMapName(), p.Object.Namespace).
		WithLabels(labels).
		WithOwnerReferences(p.owner()).
		WithImmutable(true).
		WithData(map[string]string{definitionKey: data.String()}), nil
}
