package definition

import (
	"regexp"
	"time"
)

// Duration is a length of time as it is written, such as 500ms or 1m30s.
type Duration string

// DurationOf writes a length of time.
func DurationOf(value time.Duration) Duration { return Duration(value.String()) }

// Value is the length of time, or 0 where the text is none, which Validate refuses.
func (d Duration) Value() time.Duration {
	if !d.Valid() {
		return 0
	}
	value, _ := time.ParseDuration(string(d))
	return value
}

// Valid reports whether the text is a length of time.
func (d Duration) Valid() bool {
	_, err := time.ParseDuration(string(d))
	return err == nil && durationText.MatchString(string(d))
}

// canonical writes a valid length of time in the one way in which durations are compared.
func (d *Duration) canonical() {
	if d.Valid() {
		*d = DurationOf(d.Value())
	}
}

// durationText is narrower than time.ParseDuration: no sign, no unit below a millisecond.
var durationText = regexp.MustCompile(`^([0-9]+([.][0-9]+)?(ms|s|m|h))+$`)
