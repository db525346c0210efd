package definition

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/sluice-project/sluice/api/rules"
)

// WorkerContainer is the name of the container that runs the handlers.
const WorkerContainer = "worker"

type container struct {
	Name string `json:"name"`
}

// template checks Sluice's own rules of the pod template.
func (c *checker) template(template json.RawMessage) {
	if len(template) == 0 || string(template) == "null" {
		return
	}
	const path = "spec.template"
	var pod struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
		Spec struct {
			Containers     []container `json:"containers"`
			InitContainers []container `json:"initContainers"`
			RestartPolicy  *string     `json:"restartPolicy"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(template, &pod); err != nil {
		c.add(path, "must be a pod template: "+strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	isWorker := func(container container) bool { return container.Name == WorkerContainer }
	containers := pod.Spec.Containers
	c.require(len(containers) == 0 || slices.ContainsFunc(containers, isWorker), path, rules.TemplateWorker)
	c.require(!slices.ContainsFunc(pod.Spec.InitContainers, isWorker), path, rules.TemplateInitWorker)
	c.require(pod.Spec.RestartPolicy == nil, path, rules.TemplateRestartPolicy)
	for key := range pod.Metadata.Labels {
		if strings.HasPrefix(key, "sluice.dev/") {
			c.add(path, rules.TemplateLabels)
			break
		}
	}
}
