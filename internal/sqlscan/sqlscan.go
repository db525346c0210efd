// Package sqlscan finds the commands in an SQL text without parsing them, as PostgreSQL's own
// scanner does: a semicolon in a string, a quoted name, a comment or the body of a function in
// standard SQL ends none.
//
// What must always hold: a word that PostgreSQL would read as the beginning of a command is found.
// Whatever is no valid SQL is read in some way: the server refuses the whole text.
package sqlscan

import (
	"slices"
	"strings"
)

// leading is how many words of a command are of interest.
const leading = 3

// Commands returns the first words of each command in a text, three at most, in upper case. Names
// in quotes, numbers and operators are empty words. Set backslashes if standard_conforming_strings
// is off: plain strings then have escapes.
func Commands(text string, backslashes bool) [][]string {
	s := scanner{text: text, backslashes: backslashes}
	var all [][]string
	var command []string
	var function, body bool // within CREATE FUNCTION or PROCEDURE; within its BEGIN ATOMIC … END
	before := ""            // the word before this one
	end := func() {
		if len(command) > 0 {
			all = append(all, command)
		}
		command = nil
	}
	for {
		word, more := s.next()
		if !more {
			end()
			return all
		}
		switch {
		case word == ";":
			end()
			if !body {
				function = false
			}
			before = ""
			continue
		case body && len(command) == 0 && word == "END":
			body = false // END of a CASE does not stand at the beginning of a command
		case len(command) < leading:
			command = append(command, word)
		}
		switch {
		case word == "FUNCTION" || word == "PROCEDURE":
			function = function || command[0] == "CREATE"
		case function && before == "BEGIN" && word == "ATOMIC":
			body = true
			end()
		}
		before = word
	}
}

// scanner goes through a text word by word.
type scanner struct {
	text        string
	at          int
	backslashes bool
}

// next returns a word in upper case, a semicolon, or the empty string for anything else; false at
// the end of the text.
func (s *scanner) next() (string, bool) {
	s.skipBlanks()
	if s.at >= len(s.text) {
		return "", false
	}
	switch c := s.text[s.at]; {
	case c == ';':
		s.at++
		return ";", true
	case c == '\'':
		s.skipString(s.backslashes)
		return "", true
	case c == '"':
		s.skipQuoted('"', false)
		return "", true
	case c == '$':
		s.skipDollar()
		return "", true
	case starts(c):
		word := s.word()
		if len(word) == 1 && s.at < len(s.text) && s.text[s.at] == '\'' {
			switch word {
			case "E", "e":
				s.skipString(true)
				return "", true
			case "B", "b", "X", "x": // have no escapes in any case
				s.skipString(false)
				return "", true
			case "N", "n":
				s.skipString(s.backslashes)
				return "", true
			}
		}
		return strings.ToUpper(word), true
	}
	s.at++
	return "", true
}

// starts reports whether a name can begin with a byte; those of letters beyond ASCII all count.
func starts(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func continues(c byte) bool { return starts(c) || c >= '0' && c <= '9' || c == '$' }

func (s *scanner) word() string {
	from := s.at
	for s.at < len(s.text) && continues(s.text[s.at]) {
		s.at++
	}
	return s.text[from:s.at]
}

// skipBlanks skips blanks and comments, and reports whether there were ends of lines and comments
// in slashes among them.
func (s *scanner) skipBlanks() (lines, slashes bool) {
	for s.at < len(s.text) {
		switch rest := s.text[s.at:]; {
		case rest[0] == '\n' || rest[0] == '\r':
			lines = true
			s.at++
		case strings.IndexByte(" \t\f\v", rest[0]) >= 0:
			s.at++
		case strings.HasPrefix(rest, "--"):
			end := strings.IndexAny(rest, "\n\r")
			if end < 0 {
				end = len(rest)
			}
			s.at += end
		case strings.HasPrefix(rest, "/*"):
			slashes = true
			s.skipComment()
		default:
			return lines, slashes
		}
	}
	return lines, slashes
}

// skipComment skips a comment, which may have others in it.
func (s *scanner) skipComment() {
	depth := 0
	for s.at < len(s.text) {
		switch rest := s.text[s.at:]; {
		case strings.HasPrefix(rest, "/*"):
			depth++
			s.at += 2
		case strings.HasPrefix(rest, "*/"):
			depth--
			s.at += 2
			if depth == 0 {
				return
			}
		default:
			s.at++
		}
	}
}

// skipString skips a string with those that continue it on the next lines, which have escapes if
// the first one has.
func (s *scanner) skipString(escapes bool) {
	for {
		s.skipQuoted('\'', escapes)
		before := s.at
		if !s.continued() {
			s.at = before
			return
		}
	}
}

// continued goes to a string that stands on a later line and continues the one before. After a
// comment in slashes it is a new one.
func (s *scanner) continued() bool {
	lines, slashes := s.skipBlanks()
	return lines && !slashes && s.at < len(s.text) && s.text[s.at] == '\''
}

// skipQuoted skips from a quote to its end. A doubled quote is part of what is quoted.
func (s *scanner) skipQuoted(quote byte, escapes bool) {
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case quote:
			s.at++
			if s.at >= len(s.text) || s.text[s.at] != quote {
				return
			}
		case '\\':
			if escapes {
				s.at++
			}
		}
	}
	s.at = min(s.at, len(s.text))
}

// skipDollar skips a string in dollar quotes, or the dollar of a parameter.
func (s *scanner) skipDollar() {
	from := s.at
	s.at++
	for s.at < len(s.text) && s.text[s.at] != '$' && (starts(s.text[s.at]) || s.at > from+1 && continues(s.text[s.at])) {
		s.at++
	}
	if s.at >= len(s.text) || s.text[s.at] != '$' {
		s.at = from + 1
		return
	}
	s.at++
	quote := s.text[from:s.at]
	end := strings.Index(s.text[s.at:], quote)
	if end < 0 {
		s.at = len(s.text)
		return
	}
	s.at += end + len(quote)
}

// TransactionControl returns the command in a text that ends a transaction or begins one, such as
// COMMIT; empty if there is none. Savepoints are none.
func TransactionControl(text string, backslashes bool) string {
	for _, words := range Commands(text, backslashes) {
		if command := Control(words); command != "" {
			return command
		}
	}
	return ""
}

// Control is TransactionControl of one command, by its first words.
func Control(words []string) string {
	switch words[0] {
	case "COMMIT", "END", "ABORT", "BEGIN":
		return words[0]
	case "START":
		return "START TRANSACTION"
	case "ROLLBACK": // [WORK | TRANSACTION] TO [SAVEPOINT] name
		if slices.Contains(words[1:], "TO") {
			return ""
		}
		return words[0]
	case "PREPARE":
		if len(words) > 1 && words[1] == "TRANSACTION" {
			return "PREPARE TRANSACTION"
		}
	}
	return ""
}
