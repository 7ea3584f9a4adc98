// Trains with the published syft.js: one cycle, from the task, as its README shows. Runs in Node and in a browser.
(function (root) {
  async function train(tf, syft, task) {
    const token = task.authToken ? { authToken: task.authToken } : {};
    const worker = new syft.Syft({ url: task.url, verbose: true, ...token });
    const job = await worker.newJob({ modelName: task.model, modelVersion: task.version });
    return await new Promise((resolve) => {
      const result = { events: [], losses: [], metrics: [], seconds: [] };
      const end = (event, more) => { result.events.push(event); resolve({ ...result, ...more }); };
      job.on('rejected', ({ timeout }) => end('rejected', { timeout: timeout === undefined ? null : timeout }));
      job.on('error', (error) => end('error', { error: String(error && error.message || error) }));
      job.on('accepted', async ({ model, clientConfig }) => {
        result.events.push('accepted');
        result.clientConfig = clientConfig;
        try {
          let params = model.params.map((one) => one.clone());
          for (const { x, xShape, y, yShape } of task.batches) {
            const [data, labels] = [tf.tensor(x, xShape), tf.tensor(y, yShape)];
            const began = Date.now();
            const [loss, metric, ...moved] = await job.plans[task.plan].execute(
              job.worker, data, labels, xShape[0], task.lr === undefined ? clientConfig.lr : task.lr, ...params);
            result.losses.push((await loss.data())[0]);
            result.metrics.push((await metric.data())[0]);
            result.seconds.push((Date.now() - began) / 1000);
            for (const one of [data, labels, loss, metric, ...params]) one.dispose();
            params = moved;
          }
          const diff = await model.createSerializedDiff(params);
          result.trained = await Promise.all(params.map(async (one) => Array.from(await one.data())));
          await job.report(diff);
          end('reported', {});
        } catch (error) {
          end('failed', { error: String(error && error.stack || error) });
        }
      });
      job.start();
    });
  }
  if (typeof module === 'object') module.exports = { train }; else root.publishedClient = { train };
})(typeof self === 'undefined' ? this : self);
