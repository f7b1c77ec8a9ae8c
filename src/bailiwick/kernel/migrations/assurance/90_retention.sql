-- What has happened stays, but not for ever. Only this function removes it, by its own clock, and only what is past its
-- life: 90 days for runs, 400 days for what service levels and verdicts of the gateway are counted from. The newest run of everything stays.
CREATE FUNCTION forget_runs() RETURNS TABLE (what text, gone bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bailiwick, pg_temp AS $$
DECLARE
  runs_before timestamptz := clock_timestamp() - interval '90 days';
  buckets_before timestamptz := clock_timestamp() - interval '400 days';
BEGIN
  what := 'probe_runs';
  DELETE FROM probe_runs old WHERE old.finished_at < runs_before AND EXISTS (
    SELECT FROM probe_runs new WHERE new.zone = old.zone AND new.probe = old.probe AND new.finished_at > old.finished_at);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
  what := 'alert_evaluations';
  DELETE FROM alert_evaluations old WHERE old.at < runs_before AND EXISTS (
    SELECT FROM alert_evaluations new WHERE new.zone = old.zone AND new.rule = old.rule AND new.due_at > old.due_at);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
  what := 'stuck_runs';
  DELETE FROM stuck_runs old WHERE old.finished_at < runs_before AND EXISTS (
    SELECT FROM stuck_runs new WHERE new.zone = old.zone AND new.machine = old.machine AND new.id > old.id);
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
  what := 'gateway_counts';
  DELETE FROM gateway_counts WHERE hour < buckets_before;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
  what := 'sli_buckets';
  DELETE FROM sli_buckets WHERE minute < buckets_before;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION forget_runs FROM PUBLIC;
GRANT EXECUTE ON FUNCTION forget_runs TO bailiwick_app;
