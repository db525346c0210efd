// Package axon takes over the progress of event processors of Axon Framework.
//
// What must always hold: a token becomes progress that has been given exactly the events that the processor has handled, or it is refused.
// From the moment of the takeover on Axon cannot claim the tokens any more; both are one transaction.
package axon

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
	name   string           // of the XML element, as which XStream writes a class; empty in JSON
	class  string           // that XStream names where it is not the field's
	fields map[string]*node // nil values are null
	items  []*node
	text   string
	broken error // why it could not be read, which matters only where it is needed
}

func (n *node) token() (Token, error) {
	if n == nil {
		return nothing, nil
	}
	has := func(name string) bool { _, there := n.fields[name]; return there }
	switch {
	case n.broken != nil:
		return Token{}, n.broken
	case has("globalIndex"):
		index, err := n.number("globalIndex")
		return Token{Index: index}, err
	case has("index"):
		return n.gapAware()
	case has("tokenAtReset"):
		return n.replay()
	case has("lowerSegmentToken"), has("upperSegmentToken"), n.is("MergedTrackingToken"): // XStream leaves out what is null
		return n.merged()
	}
	return Token{}, errors.New("its kind is not known: it has to be a GlobalSequence, GapAware, Replay or Merged token")
}

// is reports whether XStream names a class of that name, without its package.
func (n *node) is(class string) bool {
	return strings.HasSuffix(n.name, "."+class) || strings.HasSuffix(n.class, "."+class)
}

func (n *node) number(field string) (int64, error) {
	value := n.fields[field]
	switch {
	case value == nil:
		return 0, fmt.Errorf("%s is null", field)
	case value.broken != nil:
		return 0, fmt.Errorf("%s: %w", field, value.broken)
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
	gaps, err := n.fields["gaps"].numbers()
	if err != nil {
		return t, fmt.Errorf("gaps: %w", err)
	}
	for _, text := range gaps {
		gap, err := strconv.ParseInt(text, 10, 64)
		if err != nil || gap >= t.Index {
			return t, fmt.Errorf("gap %q is not a number below the index %d", text, t.Index)
		}
		t.Gaps = append(t.Gaps, gap)
	}
	slices.Sort(t.Gaps)
	return t, nil
}

// numbers are those of a set, in any of the forms in which it may stand: as a list; as XStream
// writes a set that it has a converter for; field by field where it has none, as before Axon 4.7;
// or within a set of java.util.Collections, which holds the same set in several fields.
func (n *node) numbers() (all []string, err error) {
	switch {
	case n == nil:
		return nil, nil
	case n.broken != nil:
		return nil, n.broken
	case n.name == "" && n.fields != nil, strings.TrimSpace(n.text) != "":
		return nil, errForm("this")
	}
	for _, item := range n.items {
		var inner []string
		switch {
		case item == nil, slices.Contains([]string{"no-comparator", "unserializable-parents", "boolean", "ss", "ns"}, item.name):
		case item.name == "default" && len(item.items) == 0:
		case item.name == "long", item.name == "" && len(item.items) == 0 && item.fields == nil:
			inner = []string{strings.TrimSpace(item.text)}
		case item.name == "m", item.name == "c", item.name == "java.util.concurrent.ConcurrentSkipListMap":
			inner, err = item.numbers()
		default:
			err = errForm(cmp.Or(item.name, "an object"))
		}
		if err != nil {
			return nil, err
		}
		all = append(all, inner...)
	}
	return all, nil
}

func errForm(what string) error {
	return fmt.Errorf("%s is no set in a form that Sluice reads: let Axon 4.7 or newer run the processor and store the token once more, by its XStreamSerializer or JacksonSerializer", what)
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

// javaClass is a name of one with its package, as Jackson's default typing puts it before a value.
var javaClass = regexp.MustCompile(`^[a-z]\w*([.][\w$]+)+$`)

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
		if len(value) == 2 {
			if class, ok := value[0].(string); ok && javaClass.MatchString(class) {
				return nodeOf(value[1])
			}
		}
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
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []*element `xml:",any"`

	parent *element
	known  *node // once it has been made
	made   bool
	making bool
}

func parseXML(text []byte) (*node, error) {
	var root element
	if err := xml.Unmarshal(text, &root); err != nil {
		return nil, err
	}
	root.adopt()
	return root.node(), nil
}

// adopt says of all elements below what they are in.
func (e *element) adopt() {
	for _, child := range e.Children {
		child.parent = e
		child.adopt()
	}
}

func (e *element) attribute(name string) (string, bool) {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value, true
		}
	}
	return "", false
}

// node has each child as a field and as an item. XStream writes null as an element of that name,
// and an object that it has written already as a reference to it.
func (e *element) node() *node {
	if !e.made && !e.making {
		e.making = true
		e.known = e.make()
		e.making, e.made = false, true
	}
	if e.making {
		return &node{broken: errors.New("it refers to an element that it is in")}
	}
	return e.known
}

func (e *element) make() *node {
	name := e.XMLName.Local
	if name == "null" {
		return nil
	}
	if path, there := e.attribute("reference"); there {
		target := e.find(path)
		if target == nil {
			return &node{name: name, broken: fmt.Errorf("the reference %q leads nowhere", path)}
		}
		same := target.node()
		if same == nil {
			return nil
		}
		n := *same
		n.name = name
		return &n
	}
	n := &node{name: name, fields: map[string]*node{}, text: e.Text}
	n.class, _ = e.attribute("class")
	for _, child := range e.Children {
		value := child.node()
		n.fields[child.XMLName.Local] = value
		n.items = append(n.items, value)
	}
	return n
}

// find follows a way of XStream's from element to element: relative, such as
// ../../lowerSegmentToken/gaps, or from the root. A number in brackets counts elements of one name.
// It returns nil where there is none.
func (e *element) find(path string) *element {
	if rest, absolute := strings.CutPrefix(path, "/"); absolute {
		for e.parent != nil {
			e = e.parent
		}
		root := &element{Children: []*element{e}}
		return root.find(rest)
	}
	at := e
	for step := range strings.SplitSeq(path, "/") {
		if step == ".." {
			at = at.parent
		} else {
			at = at.child(step)
		}
		if at == nil {
			return nil
		}
	}
	return at
}

func (e *element) child(step string) *element {
	name, count, numbered := strings.Cut(strings.TrimSuffix(step, "]"), "[")
	nth := 1
	if numbered {
		var err error
		if nth, err = strconv.Atoi(count); err != nil {
			return nil
		}
	}
	for _, child := range e.Children {
		if child.XMLName.Local == name {
			if nth--; nth == 0 {
				return child
			}
		}
	}
	return nil
}
