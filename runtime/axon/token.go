// Package axon takes over the progress of event processors of Axon Framework.
//
// What must always hold: a token becomes progress that has been given exactly the events that the processor has handled, or it is refused.
// From the moment of the takeover on Axon cannot claim the tokens any more; both are one transaction.
package axon

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Token is one of Axon's, as far as it can be taken over: Lower and Upper are those of the halves of a merged segment, or nil. Otherwise it
// has handled all events up to Index but for those at the Gaps.
type Token struct {
	Index        int64 // -1 where nothing has been handled
	Gaps         []int64
	Lower, Upper *Token
}

// nothing has been handled by a token that is null.
var nothing = Token{Index: -1}

// ParseToken reads a token in the form of Jackson or of XStream. No text is a token that is null.
func ParseToken(text []byte) (Token, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nothing, nil
	}
	var n *node
	var err error
	if text[0] == '<' {
		n, err = parseXML(text)
	} else {
		n, err = parseJSON(text)
	}
	if err != nil {
		return Token{}, fmt.Errorf("token %.200q is neither JSON nor XML: %w", text, err)
	}
	t, err := n.token()
	if err != nil {
		return Token{}, fmt.Errorf("token %.200q: %w", text, err)
	}
	return t, nil
}

// node is an object of either form: its fields, or its text, or its items.
type node struct {
	fields map[string]*node // nil values are null
	items  []*node
	text   string
}

func (n *node) token() (Token, error) {
	if n == nil {
		return nothing, nil
	}
	has := func(name string) bool { _, there := n.fields[name]; return there }
	switch {
	case has("globalIndex"):
		index, err := n.number("globalIndex")
		return Token{Index: index}, err
	case has("index"):
		return n.gapAware()
	case has("tokenAtReset"):
		return n.replay()
	case has("lowerSegmentToken") && has("upperSegmentToken"):
		return n.merged()
	}
	return Token{}, errors.New("its kind is not known: it has to be a GlobalSequence, GapAware, Replay or Merged token")
}

func (n *node) number(field string) (int64, error) {
	value := n.fields[field]
	if value == nil {
		return 0, fmt.Errorf("%s is null", field)
	}
	number, err := strconv.ParseInt(value.text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	return number, nil
}

func (n *node) gapAware() (t Token, err error) {
	if t.Index, err = n.number("index"); err != nil {
		return t, err
	}
	if gaps := n.fields["gaps"]; gaps != nil {
		for _, item := range gaps.items {
			gap, err := strconv.ParseInt(item.text, 10, 64)
			if err != nil || gap >= t.Index {
				return t, fmt.Errorf("gap %q is not a number below the index %d", item.text, t.Index)
			}
			t.Gaps = append(t.Gaps, gap)
		}
	}
	slices.Sort(t.Gaps)
	return t, nil
}

// replay that has come to its end without an event since is none any more.
func (n *node) replay() (Token, error) {
	reset, err := n.fields["tokenAtReset"].token()
	if err != nil {
		return Token{}, err
	}
	current, err := n.fields["currentToken"].token()
	if err != nil {
		return Token{}, err
	}
	if current.Lower != nil || reset.Lower != nil || !current.covers(reset) {
		return Token{}, errors.New("it is in the middle of a replay: let Axon end that first")
	}
	return current, nil
}

// covers is Axon's: all that the other has handled, t has too.
func (t Token) covers(other Token) bool {
	if other.Index > t.Index || slices.Contains(t.Gaps, other.Index) {
		return false
	}
	for _, gap := range t.Gaps {
		if gap < other.Index && !slices.Contains(other.Gaps, gap) {
			return false
		}
	}
	return true
}

func (n *node) merged() (Token, error) {
	lower, err := n.fields["lowerSegmentToken"].token()
	if err != nil {
		return Token{}, err
	}
	upper, err := n.fields["upperSegmentToken"].token()
	if err != nil {
		return Token{}, err
	}
	return Token{Lower: &lower, Upper: &upper}, nil
}

func parseJSON(text []byte) (*node, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("there is more after the value")
	}
	return nodeOf(value), nil
}

func nodeOf(value any) *node {
	switch value := value.(type) {
	case nil:
		return nil
	case map[string]any:
		n := &node{fields: map[string]*node{}}
		for name, field := range value {
			n.fields[name] = nodeOf(field)
		}
		return n
	case []any:
		n := &node{}
		for _, item := range value {
			n.items = append(n.items, nodeOf(item))
		}
		return n
	}
	return &node{text: fmt.Sprint(value)}
}

// element is one of XML.
type element struct {
	XMLName  xml.Name
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
}

func parseXML(text []byte) (*node, error) {
	var root element
	if err := xml.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	return root.node(), nil
}

// node has each child as a field and as an item. XStream writes null as an element of that name.
func (e element) node() *node {
	if e.XMLName.Local == "null" {
		return nil
	}
	n := &node{fields: map[string]*node{}, text: e.Text}
	for _, child := range e.Children {
		value := child.node()
		n.fields[child.XMLName.Local] = value
		n.items = append(n.items, value)
	}
	return n
}
