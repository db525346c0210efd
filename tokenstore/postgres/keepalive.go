package postgres

import (
	"net"
	"time"
)

// unheard is how long the other side may leave data or a probe unanswered before a connection is given up; probes are sent
// every second. It is a little less than three seconds: at the third probe it is over also by a clock that ticks coarsely.
const unheard = 2500 * time.Millisecond

// keepalive connects such that a worker on a host that was cut off notices within about three seconds, as the server does.
var keepalive = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3},
	Control:         giveUpUnheard,
}
