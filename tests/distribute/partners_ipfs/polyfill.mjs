// js-ipfs calls Promise.withResolvers, which Node 20 does not have; and a rejection nobody awaits must not end the daemon.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
process.on('unhandledRejection', (reason) => console.error('unhandled:', reason))
