package dev

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/runtime/handler"
)

// explained is an error with all that PostgreSQL says about it, which may hold data, and where a
// handler has panicked.
func explained(err error) string {
	lines := []string{err.Error()}
	add := func(what, text string) {
		if text != "" {
			lines = append(lines, what+": "+text)
		}
	}
	var place *handler.PlaceError
	if errors.As(err, &place) {
		lines = append(lines, pointed(place.Line, place.Column, place.Text))
	}
	var server *pgconn.PgError
	if errors.As(err, &server) {
		if place == nil && server.InternalQuery != "" {
			lines = append(lines, pointedAt(server.InternalQuery, int(server.InternalPosition)))
		}
		add("detail", server.Detail)
		add("hint", server.Hint)
		add("context", server.Where)
	}
	var user *handler.UserError
	if errors.As(err, &user) {
		lines = append(lines, panicked(user.Stack)...)
	}
	return strings.Join(lines, "\n")
}

// pointed is a line of SQL with a mark below a column.
func pointed(line, column int, text string) string {
	begin := fmt.Sprintf("line %d: ", line)
	runes := []rune(text)
	blank := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, begin+string(runes[:min(column-1, len(runes))]))
	return begin + text + "\n" + blank + "^"
}

// pointedAt is the line of a text that has its character at a position, from 1.
func pointedAt(text string, position int) string {
	before := []rune(text)
	before = before[:max(0, min(position-1, len(before)))]
	line := strings.Count(string(before), "\n")
	column := len(before)
	if at := strings.LastIndex(string(before), "\n"); at >= 0 {
		column = len([]rune(string(before)[at+1:]))
	}
	return pointed(line+1, column+1, strings.Split(text, "\n")[line])
}

// panicked are the lines of a stack from the panic up to what called the handler.
func panicked(stack string) (lines []string) {
	all := strings.Split(strings.TrimSpace(stack), "\n")
	for i, line := range all {
		if strings.HasPrefix(line, "panic(") && i+2 <= len(all) {
			all = all[i+2:]
			break
		}
	}
	for i := 0; i+1 < len(all); i += 2 { // a function, and where in it
		if strings.Contains(all[i], "/sluice/runtime/handler.") {
			break
		}
		lines = append(lines, all[i], "  "+strings.TrimSpace(all[i+1]))
	}
	return lines
}
