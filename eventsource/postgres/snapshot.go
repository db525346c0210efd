package postgres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is a PostgreSQL snapshot: which transactions had ended when it was taken. The zero value sees none. It is
// immutable. Its text is that of the type pg_snapshot, "xmin:xmax:xip,xip".
type Snapshot struct {
	xmin, xmax uint64   // all below xmin had ended, none from xmax on
	xip        []uint64 // had not ended; ascending, from xmin to below xmax
}

// ParseSnapshot reads the text of a pg_snapshot. The error says what is wrong with it.
func ParseSnapshot(text string) (Snapshot, error) {
	s, err := parseSnapshot(text)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	return s, nil
}

func parseSnapshot(text string) (Snapshot, error) {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return Snapshot{}, fmt.Errorf("want xmin:xmax:xip,xip")
	}
	xmin, err := parseXID(fields[0])
	if err != nil {
		return Snapshot{}, fmt.Errorf("xmin: %w", err)
	}
	xmax, err := parseXID(fields[1])
	if err != nil {
		return Snapshot{}, fmt.Errorf("xmax: %w", err)
	}
	if xmin > xmax {
		return Snapshot{}, fmt.Errorf("xmin is above xmax")
	}
	s := Snapshot{xmin: xmin, xmax: xmax}
	if fields[2] == "" {
		return s, nil
	}
	s.xip = make([]uint64, 0, strings.Count(fields[2], ",")+1)
	least := xmin
	for field := range strings.SplitSeq(fields[2], ",") {
		x, err := parseXID(field)
		if err != nil {
			return Snapshot{}, fmt.Errorf("xip: %w", err)
		}
		if x < least || x >= xmax {
			return Snapshot{}, fmt.Errorf("xip: %d is not in ascending order between xmin and xmax", x)
		}
		s.xip, least = append(s.xip, x), x+1
	}
	return s, nil
}

// parseXID reads a transaction id as PostgreSQL writes it.
func parseXID(text string) (uint64, error) {
	x, err := strconv.ParseUint(text, 10, 64)
	if err != nil || x == 0 || text[0] == '0' {
		return 0, fmt.Errorf("%q is not a transaction id", text)
	}
	return x, nil
}

// Visible tells whether the transaction had ended when the snapshot was taken, as pg_visible_in_snapshot does.
func (s Snapshot) Visible(xid uint64) bool {
	if xid < s.xmin || xid >= s.xmax {
		return xid < s.xmin
	}
	_, running := slices.BinarySearch(s.xip, xid)
	return !running
}

// Meet returns the snapshot that sees what both see.
func (s Snapshot) Meet(other Snapshot) Snapshot {
	if s.Contains(other) {
		return other
	}
	if other.Contains(s) {
		return s
	}
	m := Snapshot{xmax: min(s.xmax, other.xmax)}
	for _, x := range mergeSorted(s.xip, other.xip) {
		if x < m.xmax {
			m.xip = append(m.xip, x)
		}
	}
	m.xmin = m.xmax
	if len(m.xip) > 0 {
		m.xmin = m.xip[0]
	}
	return m
}

func mergeSorted(a, b []uint64) []uint64 {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// Contains tells whether s sees all that other sees.
func (s Snapshot) Contains(other Snapshot) bool {
	if s.xmax < other.xmax {
		return false
	}
	i := 0
	for _, x := range s.xip {
		if x >= other.xmax {
			break
		}
		for i < len(other.xip) && other.xip[i] < x {
			i++
		}
		if i == len(other.xip) || other.xip[i] != x {
			return false
		}
	}
	return true
}

// Equal tells whether both see the same, whatever their texts.
func (s Snapshot) Equal(other Snapshot) bool {
	return s.xmax == other.xmax && slices.Equal(s.xip, other.xip)
}

// String returns the text of the pg_snapshot. The zero value, which has none, is written as "1:1:", which sees no
// transaction that can have written a row either.
func (s Snapshot) String() string {
	if s.xmax == 0 {
		return "1:1:"
	}
	b := make([]byte, 0, 2*20+2+21*len(s.xip))
	b = strconv.AppendUint(b, s.xmin, 10)
	b = append(b, ':')
	b = strconv.AppendUint(b, s.xmax, 10)
	b = append(b, ':')
	for i, x := range s.xip {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}
