CREATE TABLE api_tokens (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	user_id INTEGER NOT NULL,
	name TEXT NOT NULL,
	token_hash TEXT NOT NULL,
	scope VARCHAR(8) NOT NULL,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	last_used_at DATETIME,
	CONSTRAINT uq_api_tokens_user_id_name UNIQUE (user_id, name),
	CONSTRAINT fk_api_tokens_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
	CONSTRAINT uq_api_tokens_token_hash UNIQUE (token_hash)
);

CREATE TABLE app_state (
	"key" VARCHAR(64) NOT NULL,
	value BLOB NOT NULL,
	CONSTRAINT pk_app_state PRIMARY KEY ("key")
);

CREATE TABLE assignments (
	id INTEGER NOT NULL,
	cycle_id INTEGER NOT NULL,
	client_id VARCHAR(36) NOT NULL,
	state VARCHAR(16) NOT NULL,
	key_hash VARCHAR(64) NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_assignments PRIMARY KEY (id),
	CONSTRAINT uq_assignments_cycle_id_client_id UNIQUE (cycle_id, client_id),
	CONSTRAINT fk_assignments_cycle_id_cycles FOREIGN KEY(cycle_id) REFERENCES cycles (id),
	CONSTRAINT fk_assignments_client_id_clients FOREIGN KEY(client_id) REFERENCES clients (id),
	CONSTRAINT uq_assignments_key_hash UNIQUE (key_hash)
);

CREATE INDEX ix_assignments_client_id ON assignments (client_id);

CREATE TABLE audit_entries (
	number BIGINT NOT NULL,
	entry TEXT NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_audit_entries PRIMARY KEY (number)
);

CREATE TABLE audit_head (
	id INTEGER NOT NULL,
	number BIGINT NOT NULL,
	hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_audit_head PRIMARY KEY (id),
	CONSTRAINT ck_audit_head_one_row CHECK (id = 1)
);

CREATE TABLE budgets (
	dataset_id INTEGER NOT NULL,
	epsilon DOUBLE NOT NULL,
	delta DOUBLE NOT NULL,
	basic_epsilon DOUBLE NOT NULL,
	basic_delta DOUBLE NOT NULL,
	"order" INTEGER NOT NULL,
	user_epsilon DOUBLE,
	user_delta DOUBLE,
	user_basic_epsilon DOUBLE,
	user_basic_delta DOUBLE,
	user_order INTEGER,
	unit VARCHAR(16) DEFAULT 'record' NOT NULL,
	opened_at DATETIME NOT NULL,
	CONSTRAINT pk_budgets PRIMARY KEY (dataset_id),
	CONSTRAINT fk_budgets_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id)
);

CREATE TABLE charges (
	id INTEGER NOT NULL,
	job_id VARCHAR(64) NOT NULL,
	dataset_id INTEGER NOT NULL,
	user_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	curve_id INTEGER NOT NULL,
	dataset_cost DOUBLE NOT NULL,
	user_cost DOUBLE NOT NULL,
	basic_epsilon DOUBLE NOT NULL,
	basic_delta DOUBLE NOT NULL,
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	CONSTRAINT pk_charges PRIMARY KEY (id),
	CONSTRAINT uq_charges_job_id UNIQUE (job_id),
	CONSTRAINT fk_charges_dataset_id_budgets FOREIGN KEY(dataset_id) REFERENCES budgets (dataset_id),
	CONSTRAINT fk_charges_curve_id_curves FOREIGN KEY(curve_id) REFERENCES curves (id)
);

CREATE INDEX ix_charges_dataset_user ON charges (dataset_id, user_id);

CREATE TABLE checkpoints (
	id INTEGER NOT NULL,
	process_id INTEGER NOT NULL,
	number INTEGER NOT NULL,
	model_hash VARCHAR(64) NOT NULL,
	size_bytes BIGINT NOT NULL,
	optimizer_state JSON NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_checkpoints PRIMARY KEY (id),
	CONSTRAINT uq_checkpoints_process_id_number UNIQUE (process_id, number),
	CONSTRAINT fk_checkpoints_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE TABLE clients (
	id VARCHAR(36) NOT NULL,
	process_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	subject TEXT,
	left_at DATETIME,
	used_at DATETIME,
	address_mark VARCHAR(32),
	subject_mark VARCHAR(32),
	CONSTRAINT pk_clients PRIMARY KEY (id),
	CONSTRAINT fk_clients_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE INDEX ix_clients_process_id ON clients (process_id);

CREATE INDEX ix_clients_process_id_address_mark ON clients (process_id, address_mark);

CREATE INDEX ix_clients_process_id_subject_mark ON clients (process_id, subject_mark);

CREATE TABLE curves (
	id INTEGER NOT NULL,
	events_hash VARCHAR(64) NOT NULL,
	events TEXT NOT NULL,
	divergences BLOB NOT NULL,
	CONSTRAINT pk_curves PRIMARY KEY (id),
	CONSTRAINT uq_curves_events_hash UNIQUE (events_hash)
);

CREATE TABLE cycles (
	id INTEGER NOT NULL,
	process_id INTEGER NOT NULL,
	sequence INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	attempt INTEGER NOT NULL,
	checkpoint INTEGER NOT NULL,
	num_assigned INTEGER NOT NULL,
	num_reports INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	opened_at DATETIME,
	deadline_at DATETIME,
	completed_at DATETIME,
	lease_until DATETIME,
	totals JSON,
	num_left INTEGER DEFAULT 0 NOT NULL,
	grace_until DATETIME,
	num_late INTEGER DEFAULT 0 NOT NULL,
	radius DOUBLE,
	lease_holder VARCHAR(32),
	lease_fence INTEGER DEFAULT 0 NOT NULL,
	CONSTRAINT pk_cycles PRIMARY KEY (id),
	CONSTRAINT uq_cycles_process_id_sequence UNIQUE (process_id, sequence),
	CONSTRAINT fk_cycles_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE INDEX ix_cycles_state ON cycles (state);

CREATE TABLE dataset_tags (
	dataset_id INTEGER NOT NULL,
	position INTEGER NOT NULL,
	tag TEXT NOT NULL,
	tag_key TEXT NOT NULL,
	CONSTRAINT pk_dataset_tags PRIMARY KEY (dataset_id, position),
	CONSTRAINT fk_dataset_tags_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id) ON DELETE CASCADE
);

CREATE INDEX ix_dataset_tags_tag_key ON dataset_tags (tag_key);

CREATE TABLE dataset_versions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	dataset_id INTEGER NOT NULL,
	number INTEGER NOT NULL,
	folder VARCHAR(64) NOT NULL,
	mock_folder VARCHAR(64),
	mock VARCHAR(16) NOT NULL,
	schema JSON NOT NULL,
	num_records BIGINT NOT NULL,
	num_columns INTEGER NOT NULL,
	size_bytes BIGINT NOT NULL,
	note TEXT NOT NULL,
	content_hash VARCHAR(64),
	created_by INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT uq_dataset_versions_dataset_id_number UNIQUE (dataset_id, number),
	CONSTRAINT fk_dataset_versions_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id)
);

CREATE INDEX ix_dataset_versions_content_hash ON dataset_versions (content_hash);

CREATE TABLE datasets (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name TEXT NOT NULL,
	name_key TEXT,
	description TEXT NOT NULL,
	visibility VARCHAR(16) NOT NULL,
	search_text TEXT NOT NULL,
	created_by INTEGER,
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	deleted_at DATETIME,
	CONSTRAINT uq_datasets_created_by_name_key UNIQUE (created_by, name_key)
);

CREATE INDEX ix_datasets_created_by ON datasets (created_by);

CREATE INDEX ix_datasets_name_key ON datasets (name_key);

CREATE TABLE domains (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name VARCHAR(100) NOT NULL,
	name_key VARCHAR(100) NOT NULL,
	identity VARCHAR(64),
	state VARCHAR(16) NOT NULL,
	entry JSON NOT NULL,
	entry_signature VARCHAR(100),
	address VARCHAR(300),
	address_checked_at DATETIME,
	invitation_id INTEGER,
	reason VARCHAR(500) NOT NULL,
	created_at DATETIME NOT NULL,
	decided_at DATETIME,
	decided_by INTEGER,
	last_seen_at DATETIME,
	CONSTRAINT uq_domains_name_key_identity UNIQUE (name_key, identity),
	CONSTRAINT fk_domains_invitation_id_invitations FOREIGN KEY(invitation_id) REFERENCES invitations (id) ON DELETE SET NULL
);

CREATE UNIQUE INDEX ix_domains_held_name ON domains (name_key) WHERE state IN ('accepted', 'revoked', 'left');

CREATE INDEX ix_domains_identity ON domains (identity);

CREATE INDEX ix_domains_state ON domains (state);

CREATE TABLE doomed (
	"key" VARCHAR(200) NOT NULL,
	not_before DATETIME NOT NULL,
	CONSTRAINT pk_doomed PRIMARY KEY ("key")
);

CREATE INDEX ix_doomed_not_before ON doomed (not_before);

CREATE TABLE drafts (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	created_by INTEGER NOT NULL,
	name VARCHAR(200) NOT NULL,
	version VARCHAR(200) NOT NULL,
	client_config JSON NOT NULL,
	server_config JSON NOT NULL,
	notes JSON NOT NULL,
	files JSON NOT NULL,
	process_id INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT uq_drafts_name_version UNIQUE (name, version),
	CONSTRAINT fk_drafts_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE INDEX ix_drafts_created_by ON drafts (created_by);

CREATE TABLE engine_starts (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	job_id VARCHAR(64) NOT NULL,
	fence INTEGER NOT NULL,
	pool VARCHAR(40) NOT NULL,
	handle VARCHAR(128) NOT NULL,
	token_hash VARCHAR(64) NOT NULL,
	secret_hash VARCHAR(64),
	state VARCHAR(16) NOT NULL,
	started_at DATETIME NOT NULL,
	CONSTRAINT uq_engine_starts_job_id_fence UNIQUE (job_id, fence),
	CONSTRAINT uq_engine_starts_token_hash UNIQUE (token_hash),
	CONSTRAINT uq_engine_starts_secret_hash UNIQUE (secret_hash)
);

CREATE INDEX ix_engine_starts_state ON engine_starts (state);

CREATE TABLE evaluations (
	id INTEGER NOT NULL,
	process_id INTEGER NOT NULL,
	checkpoint INTEGER NOT NULL,
	source VARCHAR(16) NOT NULL,
	metrics JSON NOT NULL,
	at DATETIME NOT NULL,
	CONSTRAINT pk_evaluations PRIMARY KEY (id),
	CONSTRAINT uq_evaluations_process_id_checkpoint UNIQUE (process_id, checkpoint),
	CONSTRAINT fk_evaluations_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE TABLE events (
	id INTEGER NOT NULL,
	process_id INTEGER NOT NULL,
	cycle INTEGER NOT NULL,
	kind VARCHAR(32) NOT NULL,
	data JSON NOT NULL,
	at DATETIME NOT NULL,
	number BIGINT DEFAULT 0 NOT NULL,
	CONSTRAINT pk_events PRIMARY KEY (id),
	CONSTRAINT fk_events_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE UNIQUE INDEX ix_events_process_id_number ON events (process_id, number);

CREATE TABLE federated_cycles (
	job_id VARCHAR(32) NOT NULL,
	number INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	cycle INTEGER NOT NULL,
	model_hash VARCHAR(64) NOT NULL,
	client_id TEXT NOT NULL,
	request_key TEXT NOT NULL,
	diff_hash VARCHAR(64),
	facts JSON,
	private_detail TEXT NOT NULL,
	begun_at DATETIME NOT NULL,
	ended_at DATETIME,
	CONSTRAINT pk_federated_cycles PRIMARY KEY (job_id, number),
	CONSTRAINT fk_federated_cycles_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
);

CREATE TABLE first_owner (
	id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_first_owner PRIMARY KEY (id),
	CONSTRAINT ck_first_owner_one_row CHECK (id = 1)
);

CREATE TABLE grants (
	dataset_id INTEGER NOT NULL,
	user_id INTEGER NOT NULL,
	epsilon DOUBLE NOT NULL,
	delta DOUBLE NOT NULL,
	basic_epsilon DOUBLE NOT NULL,
	basic_delta DOUBLE NOT NULL,
	"order" INTEGER NOT NULL,
	is_default BOOLEAN NOT NULL,
	spent_divergence DOUBLE NOT NULL,
	spent_in_dataset DOUBLE NOT NULL,
	spent_basic_epsilon DOUBLE NOT NULL,
	spent_basic_delta DOUBLE NOT NULL,
	granted_at DATETIME NOT NULL,
	CONSTRAINT pk_grants PRIMARY KEY (dataset_id, user_id),
	CONSTRAINT fk_grants_dataset_id_budgets FOREIGN KEY(dataset_id) REFERENCES budgets (dataset_id)
);

CREATE TABLE groups (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name TEXT NOT NULL,
	CONSTRAINT uq_groups_name UNIQUE (name)
);

CREATE TABLE installation (
	id INTEGER NOT NULL,
	instance_id VARCHAR(32) NOT NULL,
	app VARCHAR(16) NOT NULL,
	epoch INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_installation PRIMARY KEY (id),
	CONSTRAINT ck_installation_one_row CHECK (id = 1)
);

CREATE TABLE invitations (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	token_hash VARCHAR(64) NOT NULL,
	domain VARCHAR(100),
	max_uses INTEGER NOT NULL,
	num_uses INTEGER NOT NULL,
	expires_at DATETIME NOT NULL,
	created_by INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT uq_invitations_token_hash UNIQUE (token_hash)
);

CREATE TABLE jobs (
	number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	id VARCHAR(32) NOT NULL,
	dataset_id INTEGER NOT NULL,
	version_id INTEGER NOT NULL,
	state VARCHAR(16) NOT NULL,
	request JSON NOT NULL,
	request_hash VARCHAR(64) NOT NULL,
	requested_by INTEGER NOT NULL,
	plan_id VARCHAR(64) NOT NULL,
	plan_name TEXT NOT NULL,
	plan_summary TEXT NOT NULL,
	model_hash VARCHAR(64) NOT NULL,
	terms JSON,
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	sequence INTEGER NOT NULL,
	history JSON NOT NULL,
	num_attempts INTEGER NOT NULL,
	decided_by INTEGER,
	comment TEXT NOT NULL,
	code VARCHAR(64) NOT NULL,
	detail TEXT NOT NULL,
	private_detail TEXT NOT NULL,
	mock_metrics JSON NOT NULL,
	result_hash VARCHAR(64),
	result_bytes BIGINT,
	result_media_type VARCHAR(100),
	result_metrics JSON,
	facts JSON,
	lease_until DATETIME,
	lease_holder VARCHAR(32),
	lease_fence INTEGER DEFAULT 0 NOT NULL,
	pool VARCHAR(40) DEFAULT '' NOT NULL,
	is_federated BOOLEAN DEFAULT 0 NOT NULL,
	CONSTRAINT uq_jobs_id UNIQUE (id),
	CONSTRAINT fk_jobs_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id),
	CONSTRAINT fk_jobs_version_id_dataset_versions FOREIGN KEY(version_id) REFERENCES dataset_versions (id)
);

CREATE INDEX ix_jobs_dataset_id ON jobs (dataset_id);

CREATE INDEX ix_jobs_requested_by ON jobs (requested_by);

CREATE INDEX ix_jobs_state ON jobs (state);

CREATE TABLE kept_answers (
	number INTEGER NOT NULL,
	user_id INTEGER NOT NULL,
	route TEXT NOT NULL,
	key_hash VARCHAR(64) NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	body_bytes BIGINT NOT NULL,
	status INTEGER NOT NULL,
	answer_bytes INTEGER NOT NULL,
	expires_at DATETIME NOT NULL,
	answer BLOB,
	CONSTRAINT pk_kept_answers PRIMARY KEY (number),
	CONSTRAINT uq_kept_answers_user_id_route_key_hash UNIQUE (user_id, route, key_hash)
);

CREATE INDEX ix_kept_answers_expires_at ON kept_answers (expires_at);

CREATE INDEX ix_kept_answers_user_id_number ON kept_answers (user_id, number);

CREATE TABLE memberships (
	user_id INTEGER NOT NULL,
	group_id INTEGER NOT NULL,
	CONSTRAINT pk_memberships PRIMARY KEY (user_id, group_id),
	CONSTRAINT fk_memberships_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
	CONSTRAINT fk_memberships_group_id_groups FOREIGN KEY(group_id) REFERENCES groups (id) ON DELETE CASCADE
);

CREATE INDEX ix_memberships_group_id ON memberships (group_id);

CREATE TABLE networks (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	url VARCHAR(300) NOT NULL,
	name VARCHAR(100),
	identity VARCHAR(64),
	state VARCHAR(16) NOT NULL,
	reason VARCHAR(500) NOT NULL,
	invitation VARCHAR(200),
	created_at DATETIME NOT NULL,
	updated_at DATETIME NOT NULL,
	CONSTRAINT uq_networks_url UNIQUE (url)
);

CREATE TABLE one_time_codes (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	code_hash TEXT NOT NULL,
	email TEXT,
	email_key TEXT,
	role_id INTEGER,
	user_id INTEGER,
	created_by INTEGER,
	created_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	CONSTRAINT uq_one_time_codes_code_hash UNIQUE (code_hash),
	CONSTRAINT uq_one_time_codes_email_key UNIQUE (email_key),
	CONSTRAINT fk_one_time_codes_role_id_roles FOREIGN KEY(role_id) REFERENCES roles (id) ON DELETE CASCADE,
	CONSTRAINT uq_one_time_codes_user_id UNIQUE (user_id),
	CONSTRAINT fk_one_time_codes_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
	CONSTRAINT fk_one_time_codes_created_by_users FOREIGN KEY(created_by) REFERENCES users (id) ON DELETE CASCADE
);

CREATE INDEX ix_one_time_codes_expires_at ON one_time_codes (expires_at);

CREATE TABLE partials (
	cycle_id INTEGER NOT NULL,
	instance VARCHAR(32) NOT NULL,
	"key" VARCHAR(200) NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	covered BLOB NOT NULL,
	CONSTRAINT pk_partials PRIMARY KEY (cycle_id, instance),
	CONSTRAINT fk_partials_cycle_id_cycles FOREIGN KEY(cycle_id) REFERENCES cycles (id) ON DELETE CASCADE
);

CREATE TABLE plan_variants (
	id INTEGER NOT NULL,
	plan_id INTEGER NOT NULL,
	dialect VARCHAR(16) NOT NULL,
	batch_size INTEGER NOT NULL,
	blob_hash VARCHAR(64) NOT NULL,
	CONSTRAINT pk_plan_variants PRIMARY KEY (id),
	CONSTRAINT uq_plan_variants_plan_id_dialect_batch_size UNIQUE (plan_id, dialect, batch_size),
	CONSTRAINT fk_plan_variants_plan_id_plans FOREIGN KEY(plan_id) REFERENCES plans (id)
);

CREATE TABLE plans (
	id INTEGER NOT NULL,
	process_id INTEGER NOT NULL,
	name VARCHAR(200) NOT NULL,
	kind VARCHAR(16) NOT NULL,
	plan_hash VARCHAR(64) NOT NULL,
	size_bytes BIGINT NOT NULL,
	CONSTRAINT pk_plans PRIMARY KEY (id),
	CONSTRAINT uq_plans_process_id_kind_name UNIQUE (process_id, kind, name),
	CONSTRAINT fk_plans_process_id_processes FOREIGN KEY(process_id) REFERENCES processes (id)
);

CREATE INDEX ix_plans_process_id ON plans (process_id);

CREATE TABLE policies (
	dataset_id INTEGER NOT NULL,
	auto_approve BOOLEAN NOT NULL,
	max_epsilon_per_job DOUBLE,
	use VARCHAR(16) NOT NULL,
	updated_at DATETIME NOT NULL,
	allow_remote_workers BOOLEAN DEFAULT 0 NOT NULL,
	pools TEXT DEFAULT ',local,' NOT NULL,
	CONSTRAINT pk_policies PRIMARY KEY (dataset_id),
	CONSTRAINT fk_policies_dataset_id_datasets FOREIGN KEY(dataset_id) REFERENCES datasets (id)
);

CREATE TABLE presence (
	cycle_id INTEGER NOT NULL,
	instance VARCHAR(32) NOT NULL,
	marks BLOB NOT NULL,
	until DATETIME NOT NULL,
	CONSTRAINT pk_presence PRIMARY KEY (cycle_id, instance),
	CONSTRAINT fk_presence_cycle_id_cycles FOREIGN KEY(cycle_id) REFERENCES cycles (id) ON DELETE CASCADE
);

CREATE TABLE processes (
	id INTEGER NOT NULL,
	name VARCHAR(200) NOT NULL,
	version VARCHAR(200) NOT NULL,
	state VARCHAR(16) NOT NULL,
	client_config JSON NOT NULL,
	server_config JSON NOT NULL,
	num_parameters BIGINT NOT NULL,
	created_at DATETIME NOT NULL,
	created_by INTEGER,
	num_events BIGINT DEFAULT 0 NOT NULL,
	CONSTRAINT pk_processes PRIMARY KEY (id),
	CONSTRAINT uq_processes_name_version UNIQUE (name, version)
);

CREATE TABLE provided_identities (
	issuer TEXT NOT NULL,
	subject TEXT NOT NULL,
	user_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	CONSTRAINT pk_provided_identities PRIMARY KEY (issuer, subject),
	CONSTRAINT fk_provided_identities_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE INDEX ix_provided_identities_user_id ON provided_identities (user_id);

CREATE TABLE reports (
	id INTEGER NOT NULL,
	cycle_id INTEGER NOT NULL,
	fingerprint VARCHAR(64) NOT NULL,
	file VARCHAR(64) NOT NULL,
	"offset" BIGINT NOT NULL,
	length BIGINT NOT NULL,
	num_examples BIGINT NOT NULL,
	weight BIGINT NOT NULL,
	norm DOUBLE NOT NULL,
	scale DOUBLE,
	metrics JSON NOT NULL,
	received_at DATETIME NOT NULL,
	distance DOUBLE,
	CONSTRAINT pk_reports PRIMARY KEY (id),
	CONSTRAINT fk_reports_id_assignments FOREIGN KEY(id) REFERENCES assignments (id),
	CONSTRAINT fk_reports_cycle_id_cycles FOREIGN KEY(cycle_id) REFERENCES cycles (id)
);

CREATE INDEX ix_reports_cycle_id ON reports (cycle_id);

CREATE TABLE roles (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name TEXT NOT NULL,
	can_triage_requests BOOLEAN NOT NULL,
	can_edit_settings BOOLEAN NOT NULL,
	can_create_users BOOLEAN NOT NULL,
	can_create_groups BOOLEAN NOT NULL,
	can_edit_roles BOOLEAN NOT NULL,
	can_manage_infrastructure BOOLEAN NOT NULL,
	can_upload_data BOOLEAN NOT NULL,
	can_manage_nodes BOOLEAN NOT NULL,
	can_host_models BOOLEAN DEFAULT 0 NOT NULL,
	CONSTRAINT uq_roles_name UNIQUE (name)
);

CREATE TABLE served_models (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	model_id VARCHAR(100) NOT NULL,
	description TEXT NOT NULL,
	file VARCHAR(64) NOT NULL,
	size_bytes BIGINT NOT NULL,
	allow_download BOOLEAN NOT NULL,
	allow_remote_inference BOOLEAN NOT NULL,
	max_batch_size INTEGER NOT NULL,
	visibility VARCHAR(16) NOT NULL,
	report JSON NOT NULL,
	created_by INTEGER,
	created_at DATETIME NOT NULL,
	CONSTRAINT uq_served_models_model_id UNIQUE (model_id)
);

CREATE INDEX ix_served_models_file ON served_models (file);

CREATE TABLE sessions (
	token_hash TEXT NOT NULL,
	user_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	last_seen_at DATETIME NOT NULL,
	expires_at DATETIME NOT NULL,
	label VARCHAR(100) DEFAULT '' NOT NULL,
	CONSTRAINT pk_sessions PRIMARY KEY (token_hash),
	CONSTRAINT fk_sessions_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);

CREATE INDEX ix_sessions_user_id ON sessions (user_id);

CREATE TABLE users (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	email TEXT NOT NULL,
	email_key TEXT NOT NULL,
	password_hash TEXT NOT NULL,
	private_key_hash TEXT NOT NULL,
	role_id INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	is_disconnected BOOLEAN DEFAULT 0 NOT NULL,
	CONSTRAINT uq_users_email_key UNIQUE (email_key),
	CONSTRAINT uq_users_private_key_hash UNIQUE (private_key_hash),
	CONSTRAINT fk_users_role_id_roles FOREIGN KEY(role_id) REFERENCES roles (id)
);

CREATE INDEX ix_users_role_id ON users (role_id);

CREATE TABLE worker_leases (
	id_hash VARCHAR(64) NOT NULL,
	job_id VARCHAR(64) NOT NULL,
	worker_id INTEGER NOT NULL,
	worker VARCHAR(100) NOT NULL,
	is_begun BOOLEAN NOT NULL,
	assigned_at DATETIME NOT NULL,
	until DATETIME NOT NULL,
	CONSTRAINT pk_worker_leases PRIMARY KEY (id_hash),
	CONSTRAINT uq_worker_leases_job_id UNIQUE (job_id)
);

CREATE INDEX ix_worker_leases_worker_id ON worker_leases (worker_id);

CREATE TABLE workers (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	name VARCHAR(100) NOT NULL,
	token_hash VARCHAR(64) NOT NULL,
	created_by INTEGER NOT NULL,
	created_at DATETIME NOT NULL,
	last_seen_at DATETIME,
	CONSTRAINT uq_workers_name UNIQUE (name),
	CONSTRAINT uq_workers_token_hash UNIQUE (token_hash)
);
