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
	if !durationText.MatchString(string(d)) {
		return 0
	}
	value, err := time.ParseDuration(string(d))
	if err != nil { // out of an int64's range
		return 0
	}
	return value
}

// durationText is narrower than time.ParseDuration: no sign, no unit below a millisecond.
var durationText = regexp.MustCompile(`^([0-9]+([.][0-9]+)?(ms|s|m|h))+$`)
