package v1alpha1

// Conditions of an EventProcessor. Each has its reasons below; both are part of the API.
const (
	// ConditionReady is True when the spec of observedGeneration is in effect. It stays True through rebalances and
	// replays, and while only the operator cannot reach the store.
	ConditionReady = "Ready"
	// ConditionAvailable is True when every segment is owned, or has been without an owner for less than ten seconds.
	ConditionAvailable = "Available"
	// ConditionReconciling is True while the operator works towards the spec, and absent otherwise (as kstatus reads it).
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when nothing but an edit helps, and absent otherwise (as kstatus reads it).
	ConditionStalled = "Stalled"
	// ConditionReplaying is True while a group handles events again.
	ConditionReplaying = "Replaying"
	// ConditionHandlerValid is True when PostgreSQL accepts the statements and the image has registered
	// the handlers that the spec names.
	ConditionHandlerValid = "HandlerValid"
	// ConditionStoreReachable is True when the operator reaches the store, and False when workers cannot either.
	ConditionStoreReachable = "StoreReachable"
	// ConditionDegraded is True when something keeps segments from going on that does not end by
	// itself, or a projection is incomplete. The first of its reasons that holds explains it.
	ConditionDegraded = "Degraded"
)

// Reasons of Ready and Reconciling; those of Stalled are among them.
const (
	// ReasonReady: the spec is in effect.
	ReasonReady = "Ready"
	// ReasonProgressing: the operator works on this generation; the message says what it waits for, or
	// what the API server refuses for now.
	ReasonProgressing = "Progressing"
	// ReasonRollingOut: pods with the new template or definition are replacing the old ones.
	ReasonRollingOut = "RollingOut"
	// ReasonScaling: pods are being added or removed.
	ReasonScaling = "Scaling"
	// ReasonResegmenting: segments are being split or merged.
	ReasonResegmenting = "Resegmenting"
	// ReasonPaused: the processor is paused, as the spec asks.
	ReasonPaused = "Paused"
	// ReasonRolloutFailed: the new definition failed before it had handled an event, or its pods did
	// not become ready in time; the old pods go on. (Stalled)
	ReasonRolloutFailed = "RolloutFailed"
	// ReasonPodsNotReady: pods do not become ready; the message has the first pod's reason.
	ReasonPodsNotReady = "PodsNotReady"
	// ReasonInvalidSpec: the spec breaks a rule that the API server could not check. (Stalled)
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonNameConflict: an object that the operator has to create exists and belongs to somebody else. (Stalled)
	ReasonNameConflict = "NameConflict"
	// ReasonGroupConflict: another processor of the same store, or one of the same name of another
	// installation, has the group. (Stalled)
	ReasonGroupConflict = "GroupConflict"
	// ReasonSequencingChanged: a group's sequencing differs from that of its tokens, and changes with a replay only. (Stalled, unless
	// one is on the way or has to end first)
	ReasonSequencingChanged = "SequencingChanged"
	// ReasonLayoutInvalid: the segments of a group do not cover the hash space exactly once, so
	// that no worker handles its events. (Stalled)
	ReasonLayoutInvalid = "LayoutInvalid"
	// ReasonDeploymentScaledExternally: something other than the operator sets the Deployment's replicas. (Stalled)
	ReasonDeploymentScaledExternally = "DeploymentScaledExternally"
	// ReasonStoreChanged: the store is not the one of status.storeID. (Stalled)
	ReasonStoreChanged = "StoreChanged"
	// ReasonMigrationRequired: the store's tables are missing or too old, and migrations is Manual or
	// the role may not create them. (Stalled, unless they are being migrated)
	ReasonMigrationRequired = "MigrationRequired"
	// ReasonDeleting: the processor is being deleted.
	ReasonDeleting = "Deleting"
)

// Reasons of Available.
const (
	// ReasonAllSegmentsOwned: every segment is owned, or was a moment ago.
	ReasonAllSegmentsOwned = "AllSegmentsOwned"
	// ReasonSegmentsUnowned: segments have had no owner for ten seconds or more.
	ReasonSegmentsUnowned = "SegmentsUnowned"
	// ReasonScaledToZero: replicas is 0.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonUnknown: the operator cannot see who owns what. Also of the other conditions, while the
	// operator has not seen the store, and of HandlerValid, while no worker has reported.
	ReasonUnknown = "Unknown"
)

// Reasons of HandlerValid.
const (
	// ReasonValid: workers run the handlers.
	ReasonValid = "Valid"
	// ReasonNotRegistered: the image has not registered a Go handler that the spec names.
	ReasonNotRegistered = "NotRegistered"
	// ReasonStatementInvalid: PostgreSQL refuses a statement as it is written.
	ReasonStatementInvalid = "StatementInvalid"
	// ReasonSetupFailed: the setup of an SQL handler failed.
	ReasonSetupFailed = "SetupFailed"
	// ReasonSetupTimedOut: the setup of an SQL handler took longer than the group's time limit.
	ReasonSetupTimedOut = "SetupTimedOut"
	// ReasonSetupRuns: a setup has been running for more than 5 s; the message says where and for
	// how long. The status is Unknown. Also of Ready, while pods wait for it.
	ReasonSetupRuns = "SetupRuns"
	// ReasonTransactionEnded: a handler or setup tried to end its transaction.
	ReasonTransactionEnded = "TransactionEnded"
)

// Reasons of StoreReachable, and of Ready where workers cannot reach the store either.
const (
	// ReasonReachable: the operator reads the store.
	ReasonReachable = "Reachable"
	// ReasonSecretNotFound: a Secret that store names, or a key in it, does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonInvalidURL: the URL in the Secret is none, or has settings that are not allowed.
	ReasonInvalidURL = "InvalidURL"
	// ReasonAuthenticationFailed: the server refused user or password.
	ReasonAuthenticationFailed = "AuthenticationFailed"
	// ReasonConnectionFailed: the server cannot be reached, or ended the connection.
	ReasonConnectionFailed = "ConnectionFailed"
	// ReasonDatabaseNotFound: the server has no such database.
	ReasonDatabaseNotFound = "DatabaseNotFound"
	// ReasonPermissionDenied: the role lacks a privilege; the message names it.
	ReasonPermissionDenied = "PermissionDenied"
	// ReasonOperatorCannotConnect: only the operator cannot; workers go on. The status is Unknown.
	ReasonOperatorCannotConnect = "OperatorCannotConnect"
)

// Reasons of Degraded.
const (
	// ReasonHealthy: none of the other reasons holds. The status is False.
	ReasonHealthy = "Healthy"
	// ReasonSegmentBlocked: a segment waits since an event keeps failing, or since something else has
	// stopped it for ten seconds, such as a lock or the database. The message has group, segment,
	// event, attempts and error.
	ReasonSegmentBlocked = "SegmentBlocked"
	// ReasonProjectionIncomplete: a replay was abandoned after its reset.
	ReasonProjectionIncomplete = "ProjectionIncomplete"
	// ReasonCallAbandoned: a call of a handler, setup or reset is over its time limit and does not
	// end; the message says which.
	ReasonCallAbandoned = "CallAbandoned"
	// ReasonCallRunning: a call has been running for more than 5 s; the message says which. The
	// status is False.
	ReasonCallRunning = "CallRunning"
	// ReasonSecretUnusable: a Secret of the store was changed, and nobody can connect with its new
	// content. Open connections go on, new ones fail.
	ReasonSecretUnusable = "SecretUnusable"
	// ReasonWorkerUnfit: everything fails on one pod. It gets no segments while another pod can have
	// them.
	ReasonWorkerUnfit = "WorkerUnfit"
	// ReasonSettingsUnsupported: workers are older than the operator and do not know a live
	// setting; they go on as before.
	ReasonSettingsUnsupported = "SettingsUnsupported"
)

// Reasons of Replaying.
const (
	// ReasonNotReplaying: no group is replaying.
	ReasonNotReplaying = "NotReplaying"
	// ReasonReplayRunning: a group handles events again.
	ReasonReplayRunning = "ReplayRunning"
	// ReasonReplayWaiting: a replay has been accepted and waits; the message says for what.
	ReasonReplayWaiting = "ReplayWaiting"
	// ReasonWaitingForRollout: a replay waits until every worker runs the definition that it is bound to.
	ReasonWaitingForRollout = "WaitingForRollout"
	// ReasonWaitingForLocks: a reset waits for locks in the store; the message says whose. Also of
	// HandlerValid and Ready, while a setup waits for locks.
	ReasonWaitingForLocks = "WaitingForLocks"
	// ReasonWaitingForStore: the database does not let a replay begin or be reset. (Complete)
	ReasonWaitingForStore = "WaitingForStore"
	// ReasonResetFailing: the reset has failed and is tried again. (Complete)
	ReasonResetFailing = "ResetFailing"
)

// Conditions of a Replay; it has Reconciling too, until the reset.
const (
	// ConditionAccepted is True when the replay can run, and False when it cannot as it stands.
	ConditionAccepted = "Accepted"
	// ConditionComplete is True when nothing remains to do.
	ConditionComplete = "Complete"
	// ConditionFailed is True when the replay has ended without being complete.
	ConditionFailed = "Failed"
	// ConditionCancelled says what became of desiredState Cancelled or Abandoned.
	ConditionCancelled = "Cancelled"
)

// Reasons of a Replay's conditions.
const (
	// ReasonAccepted: the replay will run. (Accepted)
	ReasonAccepted = "Accepted"
	// ReasonProcessorNotFound: no such EventProcessor in the namespace. (Accepted)
	ReasonProcessorNotFound = "ProcessorNotFound"
	// ReasonGroupNotFound: the processor has no such group. (Accepted)
	ReasonGroupNotFound = "GroupNotFound"
	// ReasonNoReset: a group has no reset, so a replay would apply events twice. (Accepted)
	ReasonNoReset = "NoReset"
	// ReasonReplayDenied: a group says replay: Deny. (Accepted)
	ReasonReplayDenied = "ReplayDenied"
	// ReasonPlaceInvalid: the source has no such start position. (Accepted; of a new group's
	// initialPosition, Ready and Stalled)
	ReasonPlaceInvalid = "PlaceInvalid"
	// ReasonSourceInvalid: the table of spec.source is not as it is declared, or not prepared. (Ready, Stalled)
	ReasonSourceInvalid = "SourceInvalid"
	// ReasonSourceUnreachable: the events are in a database of their own, and that cannot be used;
	// the message has the reason. It says nothing of the store. (Degraded; Ready while a new group
	// waits for it)
	ReasonSourceUnreachable = "SourceUnreachable"
	// ReasonPending: the replay has not been looked at by a worker yet. (Complete)
	ReasonPending = "Pending"
	// ReasonWaiting: another replay of one of the groups runs first. (Complete)
	ReasonWaiting = "Waiting"
	// ReasonResetting: the reset is being carried out. (Complete)
	ReasonResetting = "Resetting"
	// ReasonReplayComplete: the groups have handled again what they had handled. (Complete)
	ReasonReplayComplete = "ReplayComplete"
	// ReasonAlreadyRun: the id had run before in this store. (Complete)
	ReasonAlreadyRun = "AlreadyRun"
	// ReasonSuperseded: the id was there when the groups first started, so there was nothing to replay. (Complete)
	ReasonSuperseded = "Superseded"
	// ReasonResetFailed: the reset handler failed; the message has its error. (Failed)
	ReasonResetFailed = "ResetFailed"
	// ReasonCancelled: cancelled before the reset, nothing has happened. (Failed, Cancelled)
	ReasonCancelled = "Cancelled"
	// ReasonAbandoned: abandoned after the reset. (Failed, Cancelled)
	ReasonAbandoned = "Abandoned"
	// ReasonAlreadyReset: too late to cancel; abandon it, or let it run. (Cancelled)
	ReasonAlreadyReset = "AlreadyReset"
)
