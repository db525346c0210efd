package tokenstore

// Classifier reads the errors of a store's driver. Everything else knows errors by it alone.
type Classifier interface {
	// ServerError returns the answer of the server that an error holds; nil if it holds none.
	ServerError(err error) *ServerError

	// Lost reports whether an error leaves open what the server did: the connection was lost, or the
	// server ended it. It is false for no error.
	Lost(err error) bool
}

// ServerError is what a server has answered, in terms that are the same for all stores.
type ServerError struct {
	// Kind says what the answer to a handler's statement is evidence against. It is EventFault where
	// nothing else is known.
	Kind FaultKind
	// Reason is in CamelCase, for conditions; empty for an EventFault.
	Reason string
	// TimeLimit says that a time limit was over, whoever had set it.
	TimeLimit bool
	// Ended says that the server has ended the session with it.
	Ended bool
	// Message is the server's text alone. QuotesData says that it may quote data that the server
	// could not read.
	Message    string
	QuotesData bool
	// SQL is the answer in its parts. Its detail may hold data.
	SQL SQLError
}

// Reasons of faults of the server.
const (
	ReasonServerError = "ServerError"
	ReasonReadOnly    = "ReadOnly"
)
